"""The folder to which a run saves. A run replaces and removes only checkpoints that it wrote."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import latest_checkpoint
from mmyolo_bgpenalty.utils.files import lock_folder, unlock_folders

STEP = re.compile(r'\d+(?:_iter_\d+)?')


class RunFolder(Hook):
    """Locks the folders of a run, and keeps the checkpoints of other runs.

    - Only one process trains in a folder, see ``lock_folder``.
    - A checkpoint names files that a CheckpointHook would remove later: the best checkpoint, and those beyond
      ``max_keep_ckpts``. If the run continues from a checkpoint in its own folder, these names stay, and their paths
      become paths in this folder. Otherwise they belong to another run. They are forgotten, with the best score.
    - If a run begins in a folder that has checkpoints, these move to ``before_<time>`` in the folder.

    The hook does nothing in a folder that is no local one.

    Args:
        checkpoints: the hook that saves.
    """

    priority = 'NORMAL'  # before CheckpointHook

    def __init__(self, checkpoints: CheckpointHook):
        # The numbers of a step: epochs, iterations, or both.
        parts = re.split(r'\{[^}]*\}', checkpoints.filename_tmpl)
        self._template = checkpoints.filename_tmpl
        self._name = re.compile(r'(best_[^/\\]+_)?' + STEP.pattern.join(map(re.escape, parts)))
        self._out_dir = checkpoints.out_dir
        self.continues = False  # from a checkpoint in its own folder

    def path(self, runner: Runner) -> str:
        """The folder to which the hook saves."""
        if not self._out_dir or self._out_dir == runner.work_dir:
            return runner.work_dir
        return os.path.join(self._out_dir, os.path.basename(runner.work_dir.rstrip(os.sep)))

    def name(self, step: int | str) -> str:
        """The file name of a step: 3, or '3_iter_17' within an epoch."""
        first, *rest = str(step).split('_iter_')
        return re.sub(r'\{[^}]*\}', lambda part: '_iter_'.join([part[0].format(int(first)), *rest]), self._template)

    def is_step(self, name: str) -> bool:
        """Whether the hook may have given a checkpoint of a step this name. The best checkpoint has another one."""
        found = self._name.fullmatch(name)
        return found is not None and not found[1]

    def owns(self, name: str) -> bool:
        """Whether the hook may have given a file this name."""
        return bool(self._name.fullmatch(name))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        self.continues = self._continues(runner)
        info = checkpoint['message_hub']['runtime_info']
        for key in list(info):
            if key in ('keep_ckpt_ids', 'last_ckpt', 'good_ckpt') or key.startswith('best_ckpt'):
                value = info.pop(key)
                own = self._own(runner, value) if self.continues else None
                if own is not None:
                    info[key] = own
        for key in list(info):
            if key.startswith('best_score') and key.replace('score', 'ckpt', 1) not in info:
                del info[key]

    def _continues(self, runner: Runner) -> bool:
        source = runner._load_from or latest_checkpoint(runner.work_dir)  # which may name a file anywhere
        return os.path.realpath(os.path.dirname(source)) == os.path.realpath(self.path(runner))

    def _own(self, runner: Runner, value: Any) -> Any:
        """The part of a value that names files of this run, or None."""
        if isinstance(value, (list, tuple)):
            return [step for step in value if type(step) in (int, str) and STEP.fullmatch(str(step))]
        name = os.path.basename(value) if isinstance(value, str) else ''
        return os.path.join(self.path(runner), name) if self.owns(name) else None

    def before_train(self, runner: Runner) -> None:
        if not is_main_process():
            return
        folder = self.path(runner)
        lock_folder(runner.work_dir)
        if '://' not in folder:
            lock_folder(folder)
            if not self.continues:
                self._set_aside(runner, Path(folder))

    def _set_aside(self, runner: Runner, folder: Path) -> None:
        files = sorted(file for file in folder.glob('*') if self.owns(file.name))
        if not files:
            return
        aside = folder / f'before_{runner.timestamp}'
        aside.mkdir(exist_ok=True)
        for file in [*files, Path(runner.work_dir, 'last_checkpoint')]:  # `out_dir` may be on another disk
            if file.exists():
                shutil.move(file, aside / file.name)
        runner.logger.warning(
            f'{folder} had {len(files)} checkpoints of another training. They are in {aside} now. To continue that '
            'training, stop this one, and start it with --resume and the path of one of them'
        )

    def after_run(self, runner: Runner) -> None:
        unlock_folders(runner.work_dir, self.path(runner))
