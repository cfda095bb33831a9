"""One run of an ablation: training, evaluation, result."""

import json
import re
import time
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from mmyolo_bgpenalty.cli.ablation.processes import Process, Processes, last_line
from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError, latest_checkpoint, read_checkpoint
from mmyolo_bgpenalty.utils.files import read_json, write_whole


@dataclass(eq=False)
class Run:
    """One variant with one seed.

    ``group``: the runs with this seed, this one included, that are equal as long as they are in burn-in. ``burn_in`` is
    in epochs or, if ``by_epoch`` is False, in iterations.
    """

    variant: str
    seed: int
    overrides: dict
    folder: Path
    config_text: str
    burn_in: float
    by_epoch: bool
    group: list['Run'] = field(default_factory=list)
    _stopped: bool = False
    _process: Process | None = None

    def __str__(self) -> str:
        return f'{self.variant}, seed {self.seed}'

    @property
    def config(self) -> Path:
        """The config file of this run. It has no base."""
        return self.folder.with_name(f'{self.folder.name}.py')

    @property
    def leader(self) -> 'Run':
        """The run of the group with the longest burn-in. The others can start from its checkpoints."""
        return max(self.group, key=lambda run: run.burn_in)

    @property
    def begun(self) -> bool:
        return (self.folder / 'last_checkpoint').exists()

    @property
    def last_name(self) -> str | None:
        """The file name of the last checkpoint of a finished run. A run that started there would train nothing."""
        return Path(latest_checkpoint(self.folder)).name if self.result else None

    @property
    def state(self) -> str:
        if self.result:
            return 'finished'
        if self.begun:
            return 'to be continued'
        return 'to do' if self.leader is self else f'to do, with the burn-in of {self.leader}'

    @property
    def result(self) -> dict | None:
        """The content of result.json, or None if the run is not finished.

        Raises:
            ValueError: the file is no json.
        """
        file = self.folder / 'result.json'
        if not file.exists():
            return None
        return {**read_json(file), 'variant': self.variant}  # the variant may have a new name since then

    def check_unchanged(self) -> None:
        """Raise a ValueError if the run has begun with another config."""
        if not self.config.exists() or not (self.begun or self.result):
            return
        before = self.config.read_text(encoding='utf-8')
        if before != self.config_text:
            lines = zip_longest(*(text.splitlines() for text in (before, self.config_text)), fillvalue='')
            old, new = next((old.strip(), new.strip()) for old, new in lines if old != new)
            raise ValueError(
                f'Expected the config of {self} to be as in {self.config}, but {new!r} was {old!r} when the run began: '
                f'remove {self.folder} to run it again, or choose another --work-dir'
            )

    def execute(self, processes: Processes) -> None:
        """Train and evaluate, each in its own process. Write result.json.

        Raises:
            RuntimeError: a process fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        start = time.time()
        resume, spent, first = self._begin()
        write_whole(self.folder / 'clock.json', json.dumps(dict(spent=spent, since=start, first=first)))
        write_whole(self.config, self.config_text)
        train = ['train', str(self.config), '--work-dir', str(self.folder), *resume]
        # The best checkpoint would be chosen on the images of the comparison. So the last checkpoint is compared.
        train += ['--cfg-options', 'default_hooks.checkpoint.save_best=None']
        if self.leader is self and len(self.group) > 1:
            train += ['default_hooks.checkpoint.max_keep_ckpts=-1']
        self._call(train, processes)
        checkpoint = latest_checkpoint(self.folder)
        out = self.folder / 'test'
        self._call(['test', str(self.config), checkpoint, '--work-dir', str(self.folder), '--out', str(out)], processes)
        curves = out / 'test.precision_recall.json'
        times = iteration_times(Path(checkpoint))
        result = dict(
            config=str(self.config),
            variant=self.variant,
            seed=self.seed,
            overrides=self.overrides,
            seconds=spent + time.time() - start,
            train_seconds=None if times is None or first is None else sum(times[first:]),
            metrics=read_json(out / 'metrics.json'),
            curve=read_json(curves)['curve'] if curves.exists() else None,
        )
        write_whole(self.folder / 'result.json', json.dumps(result, indent=1, ensure_ascii=False, default=str) + '\n')

    def stop(self) -> None:
        """Let the run end: a training saves a checkpoint first."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()

    def _begin(self) -> tuple[list[str], float, int | None]:
        """How to resume, the seconds before that, and the iterations before the run began, if they are known."""
        if self.begun:
            return ['--resume'], *self._before()
        branch_point = self._branch_point()
        if branch_point is None:
            return [], 0.0, 0
        times = iteration_times(branch_point)
        return ['--resume', str(branch_point)], 0.0, None if times is None else len(times)

    def _before(self) -> tuple[float, int | None]:
        """What is known of a run that was interrupted: the seconds it took, and the iterations it began after.

        The latest log entry is its last sign of life.
        """
        clock, log = self.folder / 'clock.json', self.folder / 'log.txt'
        if not (clock.exists() and log.exists()):
            return 0.0, None
        before = read_json(clock)
        return before['spent'] + max(0.0, log.stat().st_mtime - before['since']), before.get('first')

    def _branch_point(self) -> Path | None:
        """The latest checkpoint of another run of the group from the time when both were in burn-in."""
        points = []
        for other in self.group:
            for file in other.folder.glob('*.pth') if other is not self else ():
                progress = None if file.name == other.last_name else progress_of(file, self.by_epoch)
                if progress is not None and progress <= min(self.burn_in, other.burn_in) + 1e-9:
                    points.append((progress, file))
        return max(points, default=(0, None))[1]

    def _call(self, arguments: list[str], processes: Processes) -> None:
        log = self.folder / 'log.txt'
        with log.open('a', encoding='utf-8') as output:
            self._process = processes.start(arguments, output)
        if self._stopped:  # while the process was started
            self._process.terminate()
        code = self._process.wait()
        if self._stopped:
            raise RuntimeError('stopped')
        if code:
            last = last_line(log.read_text(encoding='utf-8', errors='replace'))
            raise RuntimeError(f'{arguments[0]} ended with {code}: {last} (see {log})')


def iteration_times(file: Path) -> list[float] | None:
    """Seconds of each iteration before a checkpoint was saved, or None if it does not tell."""
    try:
        return read_checkpoint(str(file))['message_hub']['log_scalars']['train/time'].data[0].tolist()
    except (CheckpointError, OSError, KeyError):
        return None


def progress_of(file: Path, by_epoch: bool) -> float | None:
    """Epochs, or iterations, before a checkpoint was saved. None for a file with another name, such as best_….pth.

    The name has epochs or iterations. If the other unit is asked for, the checkpoint says how long an epoch is.
    """
    named = re.fullmatch(r'(?:epoch_(\d+))?_?(?:iter_(\d+))?\.pth', file.name)
    epochs, iterations = (int(number or -1) for number in named.groups()) if named else (-1, -1)
    if epochs < 0 and iterations < 0:
        return None
    if by_epoch and iterations < 0:
        return epochs
    if not by_epoch and iterations >= 0:
        return iterations
    try:
        batches = read_checkpoint(str(file))['resume']['batches']
    except (CheckpointError, OSError, KeyError):
        return None
    return epochs * batches if iterations < 0 else iterations / batches
