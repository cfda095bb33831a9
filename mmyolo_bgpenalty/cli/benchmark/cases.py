"""The cases: our loss, assigner and training steps, compared with MMYOLO, MMDetection and Ultralytics."""

from collections.abc import Iterator
from typing import NamedTuple

from mmyolo_bgpenalty.cli.benchmark.detectors import at_width, build_head, our_config, their_detector
from mmyolo_bgpenalty.cli.benchmark.loss_steps import (
    LossStep,
    UltralyticsLossStep,
    assigner_steps,
    disagreement,
    traffic_steps,
)
from mmyolo_bgpenalty.cli.benchmark.measures import Task
from mmyolo_bgpenalty.cli.benchmark.scenes import Scene, Shape
from mmyolo_bgpenalty.cli.benchmark.training_steps import semi_steps, supervised_steps
from mmyolo_bgpenalty.engine.cpu_amp import computes_in_bf16

TINY = Shape(2, 64, 64, 3, 3)
SHAPES = (Shape(8, 320, 320, 3, 15), Shape(8, 640, 640, 80, 8), Shape(16, 640, 640, 80, 20))
# For whole steps: the shipped width, and YOLOv8-n.
STEP_SHAPES: tuple[tuple[Shape, dict], ...] = (
    (Shape(8, 256, 320, 3, 3), {}),
    (Shape(4, 640, 640, 80, 8), at_width(0.25)),
)
# Overrides for our detector. Without an override, λ is at its maximum.
PENALTIES: dict[str, dict] = {
    'penalty': {},
    'focal penalty': {'bbox_head.bg_penalty.focal': True},
    'no penalty': {'bbox_head.bg_penalty.lambda_bg': 0.0},
}


class Pair(NamedTuple):
    """Two tasks to compare. ``note`` says what was checked before they are timed."""

    case: str
    what: str
    shape: Shape
    ours: Task
    theirs: Task
    note: str = ''


def loss_pairs(device: str, quick: bool) -> Iterator[Pair]:
    """Compare our loss with MMYOLO's for each form of the penalty; without focal also with Ultralytics' and λ = 0."""
    for shape in (TINY,) if quick else SHAPES:
        scene = Scene(shape, device)
        cfgs = {name: our_config(shape, overrides).model for name, overrides in PENALTIES.items()}
        ours = {name: LossStep(build_head(cfg, device), scene) for name, cfg in cfgs.items()}
        theirs = LossStep(build_head(their_detector(shape, cfgs['penalty']), device), scene)
        without = ours.pop('no penalty')
        for name, step in ours.items():
            note = f"apart from the penalty, the losses differ from MMYOLO's by {disagreement(step, theirs):.1g}"
            yield Pair('loss', f'{name}, to MMYOLO', shape, step, theirs, note)
        yield Pair('loss', 'penalty, to λ = 0', shape, ours['penalty'], without)
        # Ultralytics enlarges boxes below 16 px before it assigns them. Then the losses would differ.
        step = LossStep(ours['penalty'].head, Scene(shape, device, smallest=16))
        try:
            ultralytics = UltralyticsLossStep(step.scene)
        except ImportError:
            continue
        note = f"apart from the penalty, the losses differ from Ultralytics' by {disagreement(step, ultralytics):.1g}"
        yield Pair('loss', 'penalty, to Ultralytics', shape, step, ultralytics, note)


def traffic_pairs(device: str, quick: bool) -> Iterator[Pair]:
    """Classification loss and penalty, compared with one read and one write of the logits."""
    for shape in (TINY,) if quick else SHAPES:
        tasks = traffic_steps(Scene(shape, device))
        yield Pair('traffic', 'classification loss and penalty, to a read and a write', shape, *tasks)


def assigner_pairs(device: str, quick: bool) -> Iterator[Pair]:
    """Our assigner, compared with MMYOLO's."""
    for shape in (TINY,) if quick else SHAPES:
        ours = our_config(shape).model
        tasks = assigner_steps(ours, their_detector(shape, ours), Scene(shape, device))
        yield Pair('assigner', 'to MMYOLO', shape, *tasks)


def step_pairs(device: str, quick: bool) -> Iterator[Pair]:
    """Whole training steps, compared with those of MMYOLO and of MMDetection's SemiBaseDetector."""
    for shape, overrides in ((TINY, {}),) if quick else STEP_SHAPES:
        yield Pair('supervised step', 'to MMYOLO', shape, *supervised_steps(shape, overrides, device))
        flipped = ', a flipped view on both sides'
        variants = [((), False, ''), (('horizontal',), False, flipped)]
        if device == 'cpu' and computes_in_bf16():
            variants.append((('horizontal',), True, f'{flipped}, ours with --amp'))
        for flips, amp, what in variants:
            ours, theirs = semi_steps(shape, overrides, device, flips, amp)
            boxes = ours.pseudo_boxes(), theirs.pseudo_boxes()
            note = '{:.1f} pseudo-boxes per image, {:.1f} with SemiBaseDetector'.format(*boxes)
            yield Pair('semi step', f'to SemiBaseDetector{what}', shape, ours, theirs, note)
