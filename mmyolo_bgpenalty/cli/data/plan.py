"""The lengths of a training that fit the number of pictures. Pure Python."""

import math
from dataclasses import dataclass

# Measured on BCCD and DeepPCB, starting from COCO weights (docs/lab_notes).
ITERATIONS = 2700
BATCH = 8  # with unlabeled pictures, half of a batch is labeled
BURN_IN = 0.4  # share of training on labeled pictures only
WARMUP = 0.5  # rise of λ after burn-in, as a share of burn-in
EPOCHS = (10, 100)  # smallest and largest number of epochs that is wanted


@dataclass(frozen=True)
class Plan:
    """Lengths in epochs. ``epoch_of``: the set that an epoch passes once, 'labeled' or 'unlabeled'."""

    epochs: int
    burn_in: int
    warmup: int
    epoch: int  # iterations
    batch: int
    epoch_of: str

    @property
    def iterations(self) -> int:
        return self.epochs * self.epoch


def make_plan(labeled: int, unlabeled: int, batch: int = BATCH, iterations: int | None = None) -> Plan:
    """Choose the length of an epoch and of the training.

    An epoch passes once over the unlabeled pictures. If this gives less than 10 or more than 100 epochs, it passes over
    the labeled pictures, if their number of epochs is nearer to this range. Without ``iterations``, training has at
    least 10 epochs: large sets need more than ``ITERATIONS``.

    Args:
        labeled, unlabeled: numbers of pictures. 0 unlabeled pictures: a batch has labeled pictures only.
        batch: pictures in a batch. It becomes smaller if there are fewer labeled pictures.
        iterations: wanted length of training.
    """
    parts = 2 if unlabeled else 1
    share = min(batch // parts, labeled)
    lengths = {'labeled': math.ceil(labeled / share)}
    if unlabeled:
        lengths = {'unlabeled': math.ceil(unlabeled / share), **lengths}
    wanted = iterations or ITERATIONS

    def distance(name: str) -> float:
        epochs = wanted / lengths[name]
        return max(EPOCHS[0] / epochs, epochs / EPOCHS[1], 1)  # 1: the number is in the range

    epoch_of = min(lengths, key=distance)  # the first of equals, so 'unlabeled'
    epochs = max(1 if iterations else EPOCHS[0], round(wanted / lengths[epoch_of]))
    burn_in = round(BURN_IN * epochs)
    return Plan(epochs, burn_in, max(1, round(WARMUP * burn_in)), lengths[epoch_of], share * parts, epoch_of)
