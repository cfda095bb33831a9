"""A hook that warns if semi-supervised training collapses."""

import logging
from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmyolo.registry import HOOKS
from torch import Tensor

from mmyolo_bgpenalty.datasets.known_empty import is_known_empty
from mmyolo_bgpenalty.engine.hooks.pseudo_labels import instances_of, labeled_and_unlabeled
from mmyolo_bgpenalty.utils.arguments import non_negative, whole_number
from mmyolo_bgpenalty.utils.distributed import sum_over_processes, unwrapped


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Warns once if there are too few or too many pseudo-boxes, and once if the teacher stays behind the student.

    - Pseudo-boxes: their mean number per image over ``window`` iterations is outside ``band`` times the objects per
      labeled image. Counting starts when the weight of the unlabeled images has its full value. Images that are known
      to be empty are left out.
    - Teacher: in 3 validations in a row ``student/<metric>`` exceeds ``teacher/<metric>`` by more than 0.02. Nothing
      is compared if one of the two metrics is missing.

    A resumed run continues with the counts of the main process.

    Args:
        band: two numbers, 0 <= low < high.
        window: iterations in a mean, >= 1.
        metric: a metric for which higher is better.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, band: Sequence[float] = (0.2, 3.0), window: int = 100, metric: str = 'coco/bbox_mAP_50'):
        if len(band) != 2 or not non_negative('band[0]', band[0]) < non_negative('band[1]', band[1]):
            raise ValueError(f'Expected `band` to be two numbers, low < high, but got {band!r}')
        self.band = tuple(band)
        self.window = whole_number('window', window)
        self.metric = metric
        self._warned: set[str] = set()
        # For each iteration: pseudo-boxes per image, on the device, and number of images.
        self._boxes: list[tuple[Tensor | float, int]] = []
        self._objects: float | None = None  # per labeled image
        self._behind = 0

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        boxes = [(float(mean), images) for mean, images in self._boxes]
        checkpoint['collapse_monitor'] = dict(warned=sorted(self._warned), pseudo_boxes=boxes, behind=self._behind)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get('collapse_monitor')
        if runner._resume and state:
            self._warned, self._boxes, self._behind = set(state['warned']), state['pseudo_boxes'], state['behind']

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        model = unwrapped(runner.model)
        samples = getattr(model, 'pseudo_labels', None)
        if not samples or model.unsup_ramp < 1 or 'boxes' in self._warned:
            return
        images = sum(not is_known_empty(sample) for sample in samples)
        self._boxes.append((outputs['semi/pseudo_boxes'], images))
        if len(self._boxes) >= self.window:
            counts = [(float(mean) * images, images) for mean, images in self._boxes]
            boxes, number = sum_over_processes(torch.tensor(counts, dtype=torch.float64).sum(dim=0)).tolist()
            self._boxes = []
            if number:
                self._compare_boxes(runner, boxes / number)

    def _compare_boxes(self, runner: Runner, boxes: float) -> None:
        if self._objects is None:
            labeled, _ = labeled_and_unlabeled(runner.train_dataloader.dataset)
            images = [] if labeled is None else [*instances_of(labeled)]
            objects = sum(not item.get('ignore_flag', 0) for instances in images for item in instances)
            self._objects = objects / max(len(images), 1)
        low, high = (bound * self._objects for bound in self.band)
        if not self._objects or low <= boxes <= high:
            return
        model = unwrapped(runner.model)
        if getattr(model, 'class_thresholds', None) is None:
            score_thr = model.semi_train_cfg.pseudo_test_cfg.score_thr
            threshold = f'`model.semi_train_cfg.pseudo_test_cfg.score_thr` (now {score_thr})'
        else:
            threshold = 'threshold in `model.semi_train_cfg.class_thresholds`'
        if boxes < low:
            which, change = 'few', f'a lower {threshold} or a longer `burn_in`'
        else:
            which, change = 'many', f'a higher {threshold}, a longer `burn_in` or a larger `lambda_bg`'
        self._warn(
            'boxes',
            f'Too {which} pseudo-boxes: {boxes:.3g} per image over {self.window} iterations (last: {runner.iter + 1}), '
            f'but expected {low:.3g} to {high:.3g}. A labeled image has {self._objects:.3g} objects. Try {change}.',
        )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        teacher, student = ((metrics or {}).get(f'{name}/{self.metric}') for name in ('teacher', 'student'))
        if teacher is None or student is None:
            return
        self._behind = self._behind + 1 if student - teacher > 0.02 else 0
        if self._behind >= 3:
            self._warn(
                'teacher',
                f'The teacher stays behind the student by more than 0.02 in {self._behind} validations in a row. Now '
                f'{self.metric} is {teacher:.4g} for the teacher and {student:.4g} for the student. Try a larger '
                '`default_hooks.mean_teacher.momentum`, so that the teacher follows sooner. If `pseudo_boxes` is near '
                '0, change `score_thr` first.',
            )

    def _warn(self, cause: str, message: str) -> None:
        if cause not in self._warned:
            print_log(message, logger='current', level=logging.WARNING)
        self._warned.add(cause)
