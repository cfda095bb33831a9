"""A real training of the shipped config in a minute: burn-in, hand-over, warm-up, validation, and --resume.

    python .ci/smoke.py

Everything is as shipped (the solar set, which is made in data/ on first use, the model, the loader's workers) but the
number of images and of epochs. Ends with 1, in one line, where no checkpoint, finite loss, λ or metric has come out.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mmyolo_bgpenalty.engine.schedule import lambda_bg_at  # noqa: E402

EPOCHS, BATCHES = 4, 8  # 32 unlabeled images, 4 in a batch of 8
OPTIONS = {
    'lambda_bg': 1.0,
    'burn_in': 1,
    'lambda_bg_warmup': 2,
    'train_dataloader.dataset.unlabeled.indices': 4 * BATCHES,
    'train_cfg.val_interval': 2,
    'val_dataloader.dataset.indices': 24,
    'default_hooks.logger.interval': 1,
    # An early student is sure of nothing, and without pseudo-boxes the unlabeled images would have no losses.
    'model.semi_train_cfg.pseudo_test_cfg.score_thr': 0.0,
    'model.semi_train_cfg.class_thresholds.floor': 0.0,
    'model.semi_train_cfg.unsure_thr': 0.0,
    'model.semi_train_cfg.pseudo_test_cfg.max_per_img': 5,
}


def train(work_dir: Path, epochs: int, *arguments: str) -> None:
    options = [f'{name}={value}' for name, value in {**OPTIONS, 'train_cfg.max_epochs': epochs}.items()]
    command = [sys.executable, '-W', 'ignore', 'tools/train.py', 'configs/yolov8_semi_bgpenalty.py']
    command += ['--work-dir', str(work_dir), *arguments, '--cfg-options', *options]
    # On a loaded machine torch's threads wait for each other longer than one takes for a batch as small as these.
    environment = {'OMP_NUM_THREADS': '1', **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'{done.stdout[-3000:]}{done.stderr[-3000:]}\nsmoke: train.py ended with {done.returncode}')


def rows_of(work_dir: Path) -> List[List[dict]]:
    """Of each run in the folder, the first one first, what it logged."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'), key=lambda file: file.stat().st_mtime)
    return [[json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()] for file in files]


def faults(runs: List[List[dict]], names: List[str]) -> List[str]:
    """What is wrong with the first run, of all epochs but one, and the one that resumed it.

    Args:
        runs: of each, its rows of scalars.json.
        names: of the files in the work dir.
    """
    found = [f'no {name}' for name in ('last_checkpoint', f'epoch_{EPOCHS - 1}.pth', f'epoch_{EPOCHS}.pth')]
    found = [fault for fault in found if fault[3:] not in names]
    if len(runs) != 2:
        return [*found, f'{len(runs)} logs of 2 runs']
    steps = [[row['step'] for row in rows if 'loss' in row] for rows in runs]
    first = (EPOCHS - 1) * BATCHES
    if steps != [[*range(1, first + 1)], [*range(first + 1, EPOCHS * BATCHES + 1)]]:
        found.append(f'iterations {steps}')
    for row in (row for rows in runs for row in rows if 'loss' in row):
        found += [f'{name} is {value} at {row["step"]}' for name, value in row.items() if not finite(value)]
        progress = (row['step'] - 1) / BATCHES
        wanted = lambda_bg_at(progress, lambda_bg=1.0, burn_in=1, warmup=2, schedule='linear')
        if not math.isclose(row.get('semi/lambda_bg', math.nan), wanted, abs_tol=1e-9):
            found.append(f'λ is {row.get("semi/lambda_bg")} at {row["step"]}, not {wanted}')
        expected = ['sup_loss_cls', 'sup_loss_bbox', 'sup_loss_dfl', 'sup_loss_bg']
        if progress > 1:  # where it is 1 their weight begins, at 0
            expected += [name.replace('sup', 'unsup') for name in expected]
        found += [f'no {name} at {row["step"]}' for name in expected if name not in row]
    metrics: Dict[str, float] = {}
    for rows in runs:
        for row in rows:
            metrics.update({name: value for name, value in row.items() if 'loss' not in row})
    for name in ('teacher/coco/bbox_mAP_50', 'student/coco/bbox_mAP_50', 'teacher/pr/f1'):
        if not finite(metrics.get(name)):
            found.append(f'{name} is {metrics.get(name)}')
    return found


def finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def main() -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='smoke-') as folder:
        work_dir = Path(folder)
        train(work_dir, EPOCHS - 1)
        train(work_dir, EPOCHS, '--resume')
        runs = rows_of(work_dir)
        found = faults(runs, [path.name for path in work_dir.iterdir()])
    if found:
        raise SystemExit(f'smoke: {len(found)} faults: {"; ".join(found[:5])}')
    last = [row for row in runs[1] if 'loss' in row][-1]
    print(
        f'smoke: trained {EPOCHS} epochs of {BATCHES} iterations, resumed after {EPOCHS - 1}: loss {last["loss"]:.3g}, '
        f'λ {last["semi/lambda_bg"]:g}, {time.monotonic() - start:.0f} s'
    )


if __name__ == '__main__':
    main()
