"""A real training of the shipped config in a minute: burn-in, pseudo-labels, warm-up, validation, and --resume.

    python .ci/smoke.py

Images and epochs are fewer than shipped, λ is 1, and pseudo-boxes need no minimum score. The solar set is made in data/
on first use. If a file or a value is missing, not finite or wrong, the script prints the faults and exits with 1.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    # A teacher this young is never confident, and without pseudo-boxes all losses of the unlabeled images are 0.
    'model.semi_train_cfg.pseudo_test_cfg.score_thr': 0.0,
    'model.semi_train_cfg.class_thresholds.floor': 0.0,
    'model.semi_train_cfg.unsure_thr': 0.0,
    'model.semi_train_cfg.pseudo_test_cfg.max_per_img': 5,
}
METRICS = ('teacher/coco/bbox_mAP_50', 'student/coco/bbox_mAP_50', 'teacher/pr/f1')


def train(work_dir: Path, epochs: int, *arguments: str) -> None:
    options = [f'{name}={value}' for name, value in {**OPTIONS, 'train_cfg.max_epochs': epochs}.items()]
    command = [sys.executable, '-W', 'ignore', 'tools/train.py', 'configs/yolov8_semi_bgpenalty.py']
    command += ['--work-dir', str(work_dir), *arguments, '--cfg-options', *options]
    # These batches are small: on a busy machine several threads would wait for each other longer than they work.
    environment = {'OMP_NUM_THREADS': '1', **os.environ}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'{done.stdout[-3000:]}{done.stderr[-3000:]}\nsmoke: train.py ended with {done.returncode}')


def read_logs(work_dir: Path) -> list[list[dict]]:
    """The log of each run in the folder, the first run first."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'), key=lambda file: file.stat().st_mtime)
    return [[json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()] for file in files]


def faults(runs: list[list[dict]], names: list[str]) -> list[str]:
    """What is wrong with two runs: the first ends before the last epoch, and the second resumes and trains this epoch.

    Args:
        runs: the rows of scalars.json of each run.
        names: the files in the work dir.
    """
    wanted = ('last_checkpoint', f'epoch_{EPOCHS - 1}.pth', f'epoch_{EPOCHS}.pth')
    found = [f'no {name}' for name in wanted if name not in names]
    if len(runs) != 2:
        return [*found, f'found the logs of {len(runs)} runs, but expected 2']
    steps = [[row['step'] for row in rows if 'loss' in row] for rows in runs]
    last, middle = EPOCHS * BATCHES + 1, (EPOCHS - 1) * BATCHES + 1
    if steps != [[*range(1, middle)], [*range(middle, last)]]:
        found.append(f'expected iterations 1 to {middle - 1}, then {middle} to {last - 1}, but got {steps}')
    metrics: dict[str, float] = {}
    for row in (row for rows in runs for row in rows):
        if 'loss' in row:
            found += _faults_of_iteration(row)
        else:
            metrics.update(row)
    found += [f'{name} is {metrics.get(name)}' for name in METRICS if not _is_finite(metrics.get(name))]
    return found


def _faults_of_iteration(row: dict) -> list[str]:
    where = f'in iteration {row["step"]}'
    found = [f'{name} is {value} {where}' for name, value in row.items() if not _is_finite(value)]
    progress = (row['step'] - 1) / BATCHES
    wanted = lambda_bg_at(progress, lambda_bg=1.0, burn_in=1, warmup=2, schedule='linear')
    if not math.isclose(row.get('semi/lambda_bg', math.nan), wanted, abs_tol=1e-9):
        found.append(f'λ is {row.get("semi/lambda_bg")} {where}, not {wanted}')
    expected = ['sup_loss_cls', 'sup_loss_bbox', 'sup_loss_dfl', 'sup_loss_bg']
    if progress > 1:  # at 1 the weight of the unlabeled losses is still 0
        expected += [name.replace('sup', 'unsup') for name in expected]
    return found + [f'no {name} {where}' for name in expected if name not in row]


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def main() -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='smoke-') as folder:
        work_dir = Path(folder)
        train(work_dir, EPOCHS - 1)
        train(work_dir, EPOCHS, '--resume')
        runs = read_logs(work_dir)
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
