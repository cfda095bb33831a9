"""How long a training will take on this device, from a few timed steps."""

import time
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmyolo.registry import MODELS
from mmyolo.utils import register_all_modules

from mmyolo_bgpenalty.cli.data.plan import Plan

LONGEST = 4.0  # seconds of timing, for each of the two measures
TEACHER_PASSES = 2  # the teacher looks at a picture and at its mirror image
VALIDATIONS = 10


def training_time(cfg: Config, plan: Plan, val: int, unlabeled: bool, empty: bool) -> str:
    """A text such as 'about 25 min on this CPU'. ``val`` is the number of validation pictures.

    ``empty``: a batch has as many empty pictures as labeled ones.

    Only the network is timed. Training also loads pictures and computes losses.
    """
    device = torch.cuda.get_device_name() if get_device() == 'cuda' else f'this {get_device().upper()}'
    try:
        learn, look = _seconds_a_picture(cfg, plan.batch)
    except torch.cuda.OutOfMemoryError:
        return f'but a batch of {plan.batch} is too large for {device}: lower batch_size, img_scale or model_size'
    except (RuntimeError, ValueError):  # such as a driver that is too old; training will say more
        return f'its time on {device} is unknown'
    labeled = plan.batch // 2 if unlabeled else plan.batch
    seconds = plan.iterations * labeled * (2 if empty else 1) * learn + VALIDATIONS * val * look
    if unlabeled:
        after = plan.iterations - plan.burn_in * plan.epoch
        seconds += after * labeled * (learn + TEACHER_PASSES * look) + VALIDATIONS * val * look
    return f'about {duration(seconds)} on {device}'


def duration(seconds: float) -> str:
    """'40 s', '25 min' or '3.5 h'."""
    if seconds < 90:
        return f'{max(1, round(seconds))} s'
    return f'{round(seconds / 60)} min' if seconds < 90 * 60 else f'{seconds / 3600:.1f} h'


def _seconds_a_picture(cfg: Config, batch: int) -> tuple[float, float]:
    """Seconds to learn from a picture, and to look at it without learning."""
    register_all_modules(init_default_scope=False)
    device = get_device()
    with DefaultScope.overwrite_default_scope('mmyolo'):
        detector = MODELS.build(cfg.model.get('detector', cfg.model)).to(device).train()
    detector.to(memory_format=torch.channels_last)  # as the configs that `init` writes
    width, height = cfg.img_scale
    # On a CPU the time grows with the number of pictures. A GPU is faster with a whole batch.
    number = 1 if device == 'cpu' else batch
    pictures = torch.rand(number, 3, height, width, device=device)

    def learn() -> None:
        outputs = detector(pictures, mode='tensor')
        sum(level.float().mean() for part in outputs for level in part if level is not None).backward()

    def look() -> None:
        with torch.no_grad():
            detector(pictures, mode='tensor')

    return _timed(learn) / number, _timed(look) / number


def _timed(step: Callable[[], None]) -> float:
    """Seconds of the fastest of up to 4 steps. The first step is slow, because it sets up libraries."""
    seconds: list[float] = []
    while len(seconds) < 4 and sum(seconds) < LONGEST:
        begin = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
