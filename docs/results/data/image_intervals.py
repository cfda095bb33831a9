"""Print how much chance is in the images: intervals of the difference between two variants, over resampled images.

    python docs/results/data/image_intervals.py labels_1 labels_2 labels_3 --to good_1 good_2 good_3

Each folder was written by `test --out`. The first folder before `--to` is compared with the first after it, and so on.
Each sample draws the images with replacement, the same images for all runs. The first number is the mean before `--to`.
The difference is the mean over the pairs, and its 95 % interval is over the samples.
"""

import argparse
from pathlib import Path

import numpy as np

from mmyolo_bgpenalty.cli.report.sources import read_run, results_in, same_truth
from mmyolo_bgpenalty.evaluation.bootstrap import interval_of, resampled_images
from mmyolo_bgpenalty.evaluation.false_alarms import false_alarms
from mmyolo_bgpenalty.evaluation.matching import Matches, match_images
from mmyolo_bgpenalty.evaluation.precision_recall import precision_recall

FIGURES = (
    *('precision_at_recall_0.7', 'precision_at_recall_0.8', 'recall_at_0.25'),
    *('alarms_per_100_good_at_recall_0.7', 'alarms_per_100_good_at_recall_0.8', 'alarms_per_100_good_at_0.25'),
)


def resampled(matches: Matches, counts: np.ndarray) -> Matches:
    """The matches if image i occurs ``counts[i]`` times, (I,). Each copy is an image of its own."""
    images = np.repeat(np.arange(matches.images), counts)
    times = counts[matches.image]  # of each detection
    chosen = np.repeat(np.arange(len(times)), times)
    copy = np.arange(len(chosen)) - np.repeat(np.cumsum(times) - times, times)
    first = np.cumsum(counts) - counts  # place of the first copy of each image
    labels = np.split(matches.object_labels, np.cumsum(matches.objects)[:-1])  # of each image
    labels = np.concatenate([np.zeros(0, int), *(labels[image] for image in images)])
    return matches._replace(
        **{name: getattr(matches, name)[chosen] for name in ('scores', 'labels', 'tp', 'in_empty', 'mistakes')},
        images=len(images),
        image=first[matches.image[chosen]] + copy,
        num_gt=np.bincount(labels, minlength=len(matches.num_gt)),
        objects=matches.objects[images],
        object_labels=labels,
        empty=matches.empty[images],
        empty_images=int(matches.empty[images].sum()),
    )


def figures(matches: Matches) -> np.ndarray:
    """The values of ``FIGURES``, in order."""
    found = {**precision_recall(matches)['metrics'], **false_alarms(matches, recalls=(0.7, 0.8))}
    return np.array([found[name] for name in FIGURES])


def differences(before: list[Matches], after: list[Matches], resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean difference of each figure over the pairs, (F,), and that of each sample of the images, (S, F)."""

    def mean_difference(counts: np.ndarray) -> np.ndarray:
        return np.mean(
            [figures(resampled(b, counts)) - figures(resampled(a, counts)) for a, b in zip(before, after)], 0
        )

    images = before[0].images
    samples = np.array([mean_difference(counts) for counts in resampled_images(images, resamples)])
    return mean_difference(np.ones(images, int)), samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('before', nargs='+', type=Path)
    parser.add_argument('--to', nargs='+', type=Path, required=True, dest='after')
    parser.add_argument('--resamples', type=int, default=1000)
    args = parser.parse_args()
    if len(args.before) != len(args.after):
        parser.error(f'expected as many folders as before --to, {len(args.before)}, but got {len(args.after)}')
    try:
        runs = [read_run(*results_in(folder).values(), folder.name) for folder in (*args.before, *args.after)]
    except ValueError as problem:
        parser.error(str(problem))
    if not all(same_truth(runs[0].source, run.source) for run in runs):
        parser.error('expected tests on the same images, but got several sets')
    source = runs[0].source
    matches = [match_images(zip(run.found, source.truth), len(source.classes), source.iou_thr) for run in runs]
    half = len(args.before)
    before = np.mean([figures(one) for one in matches[:half]], 0)
    mean, samples = differences(matches[:half], matches[half:], args.resamples)
    for name, base, value, values in zip(FIGURES, before, mean, samples.T):
        low, high = interval_of(values)
        print(f'{name}: {base:.3f}, {value:+.3f} [{low:+.3f}, {high:+.3f}]')


if __name__ == '__main__':
    main()
