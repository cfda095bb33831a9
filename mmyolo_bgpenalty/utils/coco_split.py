"""Labeled and unlabeled parts of a COCO set: exact counts, stratified by class. NumPy only.

An image's strata are the classes of its objects, or "no object". Rarest class first, as in iterative stratification
(K. Sechidis et al., *On the Stratification of Multi-Label Data*, 2011), each class receives its share of the labeled
images; then images are added or removed, those first that bring the shares nearest to the percent, until the number
is exact.
"""

import json
from decimal import Decimal
from fractions import Fraction
from itertools import compress
from numbers import Real
from typing import Any, Callable, Collection, List, Sequence, Tuple

import numpy as np

from mmyolo_bgpenalty.utils.arguments import whole_number


def percent_name(percent) -> str:
    """A percent as file names have it: '10' for 10.0, '0.5' for 0.50."""
    text = format(_decimal(percent), 'f')
    return text.rstrip('0').rstrip('.') if '.' in text else text


def semi_names(stem: str, fold: int, percent) -> Tuple[str, str]:
    """The names MMDetection gives the two files: train.1@10.json and train.1@10-unlabeled.json."""
    name = f'{stem}.{fold}@{percent_name(percent)}'
    return f'{name}.json', f'{name}-unlabeled.json'


def labeled_count(number: int, percent) -> int:
    """``percent`` of ``number`` images, rounded as Python's ``round`` does (halves to even), without its float error.

    Raises:
        ValueError: the percent is not in (0, 100), or one of the two parts would have no image.
    """
    count = round(Fraction(_decimal(percent)) * number / 100)
    if not 0 < count < number:
        raise ValueError(
            f'Expected `percent` to leave an image in either part, but {percent_name(percent)} % of {number} images '
            f'is {count}'
        )
    return count


def _decimal(percent: Any) -> Decimal:
    if isinstance(percent, bool) or not isinstance(percent, Real) or percent <= 0 or not percent < 100:
        raise ValueError(f'Expected `percent` to be a number above 0 and below 100, but got {percent!r}')
    return Decimal(str(percent))


def part(coco: dict, ids: Collection) -> dict:
    """The set restricted to the images with these ids; everything else stays as it is."""
    return {
        **coco,
        'images': [image for image in coco['images'] if image['id'] in ids],
        'annotations': [annotation for annotation in coco['annotations'] if annotation['image_id'] in ids],
    }


def part_writer(coco: dict) -> Callable[[np.ndarray], str]:
    """A function of a mask over the images that gives the json of ``part``; each entry is made text only once."""
    names = ('images', 'annotations')
    texts = {name: [json.dumps(entry) for entry in coco[name]] for name in names}
    others = {name: json.dumps(value) for name, value in coco.items() if name not in names}
    place = {image['id']: place for place, image in enumerate(coco['images'])}
    owners = np.array([place[annotation['image_id']] for annotation in coco['annotations']], dtype=np.int64)

    def write(mask: np.ndarray) -> str:
        chosen = dict(images=mask.tolist(), annotations=mask[owners].tolist())
        values = {name: '[' + ', '.join(compress(texts[name], chosen[name])) + ']' for name in names}
        return '{' + ', '.join(f'{json.dumps(name)}: {others.get(name) or values[name]}' for name in coco) + '}'

    return write


def objects(coco: dict) -> Tuple[np.ndarray, np.ndarray]:
    """Image and class of every object, as places in ``images`` and ``categories``; two arrays of one length.

    Objects are the boxes that MMDetection's CocoDataset trains on: no crowd, not ignored, at least one pixel wide
    and high.
    """
    images, classes = ({entry['id']: place for place, entry in enumerate(coco[n])} for n in ('images', 'categories'))
    image_of, class_of = [], []
    for annotation in coco['annotations']:
        area = annotation.get('area')
        no_area = isinstance(area, (int, float)) and area <= 0
        if not (annotation.get('iscrowd') or annotation.get('ignore') or no_area or min(annotation['bbox'][2:]) < 1):
            image_of.append(images[annotation['image_id']])
            class_of.append(classes[annotation['category_id']])
    return np.array(image_of, dtype=np.int64), np.array(class_of, dtype=np.int64)


def draw(
    image_of: np.ndarray, class_of: np.ndarray, number: int, labeled: int, seed: int = 0, fold: int = 1
) -> np.ndarray:
    """Which images are labeled: a mask, (number,), with exactly ``labeled`` of them.

    Each class has its share of images, and at least one of them wherever there is room for all classes. With fewer
    labeled images than classes, as many classes as a greedy search finds room for. The draw is a function of the
    arguments alone: no generator's algorithm but PCG64's raw stream, which NumPy keeps as it is, takes part.

    Args:
        image_of, class_of: of every object, as ``objects`` gives them.
        number: images in all.
        labeled: images to choose, in (0, number).
        seed, fold: whole numbers >= 0; every pair is another draw.

    Raises:
        ValueError: an argument as described above is not met.
    """
    whole_number('seed', seed, least=0)
    whole_number('fold', fold, least=0)
    if not 0 < labeled < number:
        raise ValueError(
            f'Expected `labeled` to be above 0 and below {number}, the number of images, but got {labeled}'
        )
    order = np.argsort(np.random.PCG64(np.random.SeedSequence([seed, fold])).random_raw(number), kind='stable')
    position = np.empty(number, dtype=np.int64)
    position[order] = np.arange(number)
    # From here on images are known by their place in the random order: the first that will do is a random one.
    strata = _Strata(position[image_of], class_of, number, labeled)
    best, kept = None, -1
    for cover in (_no_cover, _rarest_first, _most_first):
        chosen = strata.choose(cover(strata))
        covered = strata.covered(chosen)
        if covered > kept:
            best, kept = chosen, covered
        if covered == strata.covered(np.ones(number, dtype=bool)):
            break
    mask = np.zeros(number, dtype=bool)
    mask[order] = best
    return mask


class _Strata:
    """Pairs of image and stratum, each once; the last stratum is of the images without objects."""

    def __init__(self, image_of: np.ndarray, class_of: np.ndarray, number: int, labeled: int):
        self.number, self.labeled = number, labeled
        self.empty = int(class_of.max(initial=-1)) + 1
        bare = np.setdiff1d(np.arange(number), image_of)
        codes = np.unique(np.append(class_of * number + image_of, self.empty * number + bare))
        self.stratum, self.image = np.divmod(codes, number)
        self.sizes = np.bincount(self.stratum, minlength=self.empty + 1)
        self.members = np.split(self.image, np.cumsum(self.sizes)[:-1])
        self.rarest_first = [s for s in np.argsort(self.sizes, kind='stable') if self.sizes[s]]
        share = labeled / number * self.sizes
        # At least one image of each class; "no object" may do without.
        self.targets = np.where(np.arange(len(share)) < self.empty, np.maximum(share, 1), np.maximum(share, 1e-9))

    def count(self, chosen: np.ndarray) -> np.ndarray:
        """Chosen images of each stratum."""
        return np.bincount(self.stratum, weights=chosen[self.image], minlength=len(self.sizes))

    def covered(self, chosen: np.ndarray) -> int:
        """Number of classes that a chosen image has."""
        return int((self.count(chosen)[: self.empty] > 0).sum())

    def per_image(self, weights: np.ndarray) -> np.ndarray:
        """Sum over each image's strata."""
        return np.bincount(self.image, weights=weights[self.stratum], minlength=self.number)

    def choose(self, kept: np.ndarray) -> np.ndarray:
        """A mask of ``labeled`` images, with those of the mask ``kept`` among them."""
        chosen, decided = kept.copy(), kept.copy()
        for stratum in self.rarest_first:
            members = self.members[stratum]
            open_ = members[~decided[members]]
            need = int(np.rint(self.targets[stratum])) - int(chosen[members].sum())
            chosen[open_[: max(need, 0)]] = True
            decided[open_] = True
        for _ in range(abs(self.labeled - int(chosen.sum()))):
            self._step(chosen, kept)
        return chosen

    def _step(self, chosen: np.ndarray, kept: np.ndarray) -> None:
        """Add or remove the image that leaves the least sum of (count − target)² / target."""
        sign = 1 if chosen.sum() < self.labeled else -1
        cost = self.per_image((2 * sign * (self.count(chosen) - self.targets) + 1) / self.targets)
        candidates = ~chosen if sign > 0 else chosen & ~kept
        chosen[np.argmin(np.where(candidates, cost, np.inf))] = sign > 0


def _no_cover(strata: _Strata) -> np.ndarray:
    return np.zeros(strata.number, dtype=bool)


def _rarest_first(strata: _Strata) -> np.ndarray:
    """Images with all classes, or as many as there is room for: for the rarest one that is missing, its image with
    most missing ones."""
    chosen, missing = _no_cover(strata), _classes(strata)
    for stratum in strata.rarest_first:
        if missing[stratum] and chosen.sum() < strata.labeled:
            members = strata.members[stratum]
            _take(strata, int(members[np.argmax(strata.per_image(missing)[members])]), chosen, missing)
    return chosen


def _most_first(strata: _Strata) -> np.ndarray:
    """The same, but always the image with most missing classes."""
    chosen, missing = _no_cover(strata), _classes(strata)
    while missing.any() and chosen.sum() < strata.labeled:
        _take(strata, int(np.argmax(strata.per_image(missing))), chosen, missing)
    return chosen


def _classes(strata: _Strata) -> np.ndarray:
    present = (strata.sizes > 0).astype(float)
    present[strata.empty] = 0
    return present


def _take(strata: _Strata, image: int, chosen: np.ndarray, missing: np.ndarray) -> None:
    chosen[image] = True
    missing[strata.stratum[strata.image == image]] = 0


def class_counts(image_of: np.ndarray, class_of: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """Of each class the images that have it and its objects, among the images of the mask; (classes, 2)."""
    inside = mask[image_of]
    codes = np.unique(class_of[inside] * len(mask) + image_of[inside])
    images = np.bincount(codes // len(mask), minlength=classes)
    return np.stack([images, np.bincount(class_of[inside], minlength=classes)], axis=1)


def lost_classes(names: Sequence[str], counts: np.ndarray, labeled: np.ndarray) -> List[str]:
    """Names of the classes of which there are images, but no labeled one; counts as of ``class_counts``."""
    return [name for name, there, here in zip(names, counts[:, 0], labeled[:, 0]) if there and not here]
