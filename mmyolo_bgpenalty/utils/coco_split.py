"""Split a COCO set into a labeled and an unlabeled part: exact counts, stratified by class. NumPy only.

The strata of an image are the classes of its objects, or "no object". Each class gets its share of the labeled images,
the rarest class first, as in iterative stratification (K. Sechidis et al., *On the Stratification of Multi-Label
Data*, 2011). Then single images are added or removed until the number is exact. Each step takes the image that brings
the share of each class nearest to the percent.
"""

from decimal import Decimal
from fractions import Fraction
from itertools import compress
from numbers import Real
from typing import Any

import numpy as np

from mmyolo_bgpenalty.utils.arguments import whole_number
from mmyolo_bgpenalty.utils.coco_json import is_crowd


def percent_name(percent) -> str:
    """A percent as the file names write it: '10' for 10.0, '0.5' for 0.50."""
    text = format(_decimal(percent), 'f')
    return text.rstrip('0').rstrip('.') if '.' in text else text


def semi_names(stem: str, fold: int, percent) -> tuple[str, str]:
    """The names that MMDetection gives the two files: ``train.1@10.json``, ``train.1@10-unlabeled.json``."""
    name = f'{stem}.{fold}@{percent_name(percent)}'
    return f'{name}.json', f'{name}-unlabeled.json'


def labeled_count(number: int, percent) -> int:
    """``percent`` of ``number`` images, computed exactly. Halves are rounded to the even number.

    Raises:
        ValueError: the percent is not in (0, 100), or a part would have no image.
    """
    count = round(Fraction(_decimal(percent)) * number / 100)
    if not 0 < count < number:
        raise ValueError(
            f'Expected `percent` to leave an image in each part, but {percent_name(percent)} % of {number} images '
            f'is {count}'
        )
    return count


def _decimal(percent: Any) -> Decimal:
    if isinstance(percent, bool) or not isinstance(percent, Real) or percent <= 0 or not percent < 100:
        raise ValueError(f'Expected `percent` to be a number above 0 and below 100, but got {percent!r}')
    return Decimal(str(percent))


def part(coco: dict, mask: np.ndarray) -> dict:
    """The set with only the images in ``mask``, (images,), and their annotations."""
    images = list(compress(coco['images'], mask))
    ids = {image['id'] for image in images}
    annotations = [annotation for annotation in coco['annotations'] if annotation['image_id'] in ids]
    return {**coco, 'images': images, 'annotations': annotations}


def objects(coco: dict) -> tuple[np.ndarray, np.ndarray]:
    """Image and class of each object: two arrays (objects,) of indices into ``images`` and ``categories``.

    Objects are boxes that are not crowd and not ignored, at least one pixel wide and high, and with an area above 0 if
    an area is given. MMDetection's CocoDataset trains on these, except for boxes that lie outside their image.
    """
    images, classes = ({entry['id']: place for place, entry in enumerate(coco[n])} for n in ('images', 'categories'))
    image_of, class_of = [], []
    for annotation in coco['annotations']:
        area = annotation.get('area')
        no_area = isinstance(area, (int, float)) and area <= 0
        if not (is_crowd(annotation) or no_area or min(annotation['bbox'][2:]) < 1):
            image_of.append(images[annotation['image_id']])
            class_of.append(classes[annotation['category_id']])
    return np.array(image_of, dtype=np.int64), np.array(class_of, dtype=np.int64)


def draw(
    image_of: np.ndarray, class_of: np.ndarray, number: int, labeled: int, seed: int = 0, fold: int = 1
) -> np.ndarray:
    """Choose exactly ``labeled`` images. Return them as a mask, (number,).

    Each class gets its share of images, and at least one image if ``labeled`` >= the number of classes. Otherwise a
    greedy search covers as many classes as it can. The same arguments give the same draw with every version of NumPy,
    because NumPy never changes the raw stream of PCG64.

    Args:
        image_of, class_of: image and class of each object, as ``objects`` returns them.
        number: number of images in the set.
        labeled: number of images to choose, in (0, number).
        seed, fold: whole numbers >= 0. Each pair gives its own random order of the images.

    Raises:
        ValueError: an argument is out of range.
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
    # From here on, images are numbered in random order. So the first of several equal images is a random one.
    strata = _Strata(position[image_of], class_of, number, labeled)
    best, kept = None, -1
    for first in (None, 'rarest class', 'most classes'):
        chosen = strata.choose(_cover(strata, first))
        covered = strata.covered(chosen)
        if covered > kept:
            best, kept = chosen, covered
        if covered == strata.covered(np.ones(number, dtype=bool)):
            break
    mask = np.zeros(number, dtype=bool)
    mask[order] = best
    return mask


class _Strata:
    """All pairs of an image and one of its strata. The last stratum holds the images without objects."""

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
        # At least one image of each class. The stratum "no object" may have none.
        self.targets = np.where(np.arange(len(share)) < self.empty, np.maximum(share, 1), np.maximum(share, 1e-9))

    def count(self, chosen: np.ndarray) -> np.ndarray:
        """Number of chosen images in each stratum."""
        return np.bincount(self.stratum, weights=chosen[self.image], minlength=len(self.sizes))

    def covered(self, chosen: np.ndarray) -> int:
        """Number of classes with a chosen image."""
        return int((self.count(chosen)[: self.empty] > 0).sum())

    def per_image(self, weights: np.ndarray) -> np.ndarray:
        """For each image, the sum of the weights of its strata."""
        return np.bincount(self.image, weights=weights[self.stratum], minlength=self.number)

    def choose(self, kept: np.ndarray) -> np.ndarray:
        """A mask of ``labeled`` images. It includes the mask ``kept``."""
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
        """Add or remove the image that makes the sum of (count − target)² / target over the strata smallest."""
        sign = 1 if chosen.sum() < self.labeled else -1
        cost = self.per_image((2 * sign * (self.count(chosen) - self.targets) + 1) / self.targets)
        candidates = ~chosen if sign > 0 else chosen & ~kept
        chosen[np.argmin(np.where(candidates, cost, np.inf))] = sign > 0


def _cover(strata: _Strata, first: str | None) -> np.ndarray:
    """A mask of at most ``labeled`` images that cover all classes, or many of them. It is empty if ``first`` is None.

    Each step takes the image with the most missing classes. With 'rarest class', it must have the rarest of them.
    """
    chosen, missing = np.zeros(strata.number, dtype=bool), (strata.sizes > 0).astype(float)
    missing[strata.empty] = 0
    while first and missing.any() and chosen.sum() < strata.labeled:
        members = np.arange(strata.number)
        if first == 'rarest class':
            members = strata.members[next(stratum for stratum in strata.rarest_first if missing[stratum])]
        image = members[np.argmax(strata.per_image(missing)[members])]
        chosen[image] = True
        missing[strata.stratum[strata.image == image]] = 0
    return chosen


def class_counts(image_of: np.ndarray, class_of: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """The numbers of images and of objects of each class inside ``mask``, (classes, 2)."""
    inside = mask[image_of]
    codes = np.unique(class_of[inside] * len(mask) + image_of[inside])
    images = np.bincount(codes // len(mask), minlength=classes)
    return np.stack([images, np.bincount(class_of[inside], minlength=classes)], axis=1)
