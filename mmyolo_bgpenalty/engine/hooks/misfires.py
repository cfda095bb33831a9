"""MisfiresFirstHook: draws those empty images more often on which the detector has false alarms."""

import logging
from typing import Any

import numpy as np
import torch
from mmdet.utils import get_test_pipeline_cfg
from mmengine.dataset import Compose, pseudo_collate
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch.utils.data import DataLoader, Dataset

from mmyolo_bgpenalty.datasets.samplers import SOURCES, LabeledUnlabeledBatchSampler
from mmyolo_bgpenalty.models.empty_branch import ALARM
from mmyolo_bgpenalty.utils.arguments import fraction, whole_number
from mmyolo_bgpenalty.utils.distributed import unwrapped


@HOOKS.register_module()
class MisfiresFirstHook(Hook):
    """Draws empty images more often if the detector has false alarms on them.

    ``times`` times in a run, before an epoch, the EMA model, or the teacher, predicts on the empty images with the test
    pipeline. s_i is the highest score on image i, or 0 without a box. From then on image i of n is drawn with the
    probability

        p_i = floor / n + (1 − floor) · s_i / Σ s

    with replacement. Before that, and if Σ s = 0, all are drawn equally often. At most as many images are scored at a
    time as training draws in between. They are chosen at random, and images without a score count with the mean.

    The share of scored images with an alarm, a score of 0.25 or more, is logged, also as ``bg/images_with_alarm``.
    Scores and epoch are in the checkpoint, so a resumed run draws the same images. Without a LabeledUnlabeledDataset
    with ``empty`` nothing is done.

    Args:
        times: how often the images are scored, >= 1, evenly over the epochs. A short run may have fewer epochs.
        floor: share of the draws in which all images are equal, in (0, 1].

    Raises:
        ValueError: an argument is out of range; there are empty images, but no ``test_dataloader``.
    """

    def __init__(self, times: int = 5, floor: float = 0.3):
        self.times = whole_number('times', times)
        if not fraction('floor', floor):
            raise ValueError(f'Expected `floor` to be > 0, but got {floor!r}')
        self.floor = floor
        self._scores: np.ndarray | None = None  # of each empty image; NaN if it has none yet
        self._scored = 0  # epoch of the latest scores

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._scores is not None:
            checkpoint['misfires'] = dict(scores=torch.from_numpy(self._scores), epoch=self._scored)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get('misfires')
        if runner._resume and state:
            self._scores, self._scored = state['scores'].cpu().numpy(), state['epoch']

    def before_train(self, runner: Runner) -> None:
        sampler = runner.train_dataloader.batch_sampler
        dataset = runner.train_dataloader.dataset
        self._images = getattr(dataset, 'empty_set', None)
        if self._images is None or not isinstance(sampler, LabeledUnlabeledBatchSampler):
            self._images = None
            return
        if not runner.cfg.get('test_dataloader'):
            raise ValueError('Expected `test_dataloader`, whose pipeline MisfiresFirstHook needs, but there is none')
        if self._scores is not None and len(self._scores) != len(self._images):
            text = f'{len(self._scores)} empty images before, {len(self._images)} now: their scores begin anew'
            print_log(text, logger='current', level=logging.WARNING)
            self._scores, self._scored = None, 0
        if self._scores is not None:
            sampler.empty_shares = shares(self._scores, self.floor)

    def before_train_epoch(self, runner: Runner) -> None:
        epoch = runner.epoch
        steps = [round(runner.max_epochs * step / (self.times + 1)) for step in range(1, self.times + 1)]
        # A run that continues within this epoch has its scores already.
        if self._images is None or epoch not in steps or epoch == self._scored:
            return
        sampler = runner.train_dataloader.batch_sampler
        drawn = len(sampler) * sampler.shares[sampler.sources.index('empty')] * get_world_size()
        number = min(len(self._images), max(1, drawn * (epoch - max([0, *(step for step in steps if step < epoch)]))))
        rng = np.random.default_rng([sampler.sampler.seed, epoch, len(SOURCES)])  # the same in all processes
        places = np.sort(rng.choice(len(self._images), number, replace=False))
        found = self._predict(runner, places)
        if self._scores is None:
            self._scores = np.full(len(self._images), np.nan)
        self._scores[places], self._scored = found, epoch
        sampler.empty_shares = shares(self._scores, self.floor)
        alarms = int((found >= ALARM).sum())
        text = f'{alarms} of {number} empty images have a false alarm (score >= {ALARM}); high scores are drawn more'
        print_log(text, logger='current')
        runner.message_hub.update_scalar('train/bg/images_with_alarm', alarms / number)

    @torch.no_grad()
    def _predict(self, runner: Runner, places: np.ndarray) -> np.ndarray:
        """The highest score on each of these empty images, in all processes."""
        model = _evaluated(runner)
        rank, step = get_rank(), get_world_size()
        loader = DataLoader(
            _TestViews(self._images, places[rank::step], Compose(get_test_pipeline_cfg(runner.cfg))),
            batch_size=runner.train_dataloader.batch_sampler.batch_size,
            num_workers=runner.train_dataloader.num_workers,
            collate_fn=pseudo_collate,
            worker_init_fn=runner.train_dataloader.worker_init_fn,  # signals are for the main process
            generator=torch.Generator(),  # the random numbers of training stay as they are
        )
        training, own = model.training, []
        model.eval()
        for batch in loader:
            own += [
                float(sample.pred_instances.scores.max()) if len(sample.pred_instances) else 0.0
                for sample in model.test_step(batch)
            ]
        model.train(training)
        scores = torch.zeros(len(places), dtype=torch.float64)
        scores[rank::step] = torch.tensor(own, dtype=torch.float64)
        all_reduce(scores)
        return scores.numpy()


class _TestViews(Dataset):
    """Images of a set with another pipeline. The next readable image replaces an unreadable one."""

    def __init__(self, images, places: np.ndarray, pipeline: Compose):
        self.images, self.places, self.pipeline = images, places, pipeline

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        return self.images.first_readable(int(self.places[index]), self.pipeline.transforms)


def shares(scores: np.ndarray, floor: float) -> np.ndarray | None:
    """p_i of :class:`MisfiresFirstHook`, (n,). None if all scores are 0. A NaN counts as the mean of the others."""
    known = np.where(np.isnan(scores), np.nanmean(scores), scores)
    if not known.sum():
        return None
    chances = floor / len(known) + (1 - floor) * known / known.sum()
    return chances / chances.sum()  # NumPy wants a sum of 1 to the last digits


def _evaluated(runner: Runner) -> Any:
    """The model that validation evaluates: that of EMAHook, else the trained one, which may have a teacher."""
    averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    return averages[0] if averages else unwrapped(runner.model)
