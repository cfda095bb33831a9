"""An ablation with a stand-in for training and testing."""

import sys
from pathlib import Path

from mmyolo_bgpenalty.cli.ablation import ablate, processes, worker

COMMAND = """
import json, runpy, sys
from pathlib import Path
argv, here = sys.argv, Path(__file__).parent
work = Path(argv[argv.index('--work-dir') + 1])
if argv[1] == 'test':
    (work / 'test').mkdir(exist_ok=True)
    (work / 'test/metrics.json').write_text(json.dumps({'coco/bbox_mAP_50': float(Path(argv[3]).read_text())}))
    sys.exit()
cfg = runpy.run_path(argv[2])
options = dict(o.split('=', 1) for o in argv[argv.index('--cfg-options') + 1:])
resume = argv[argv.index('--resume') + 1] if '--resume' in argv else None
with (here / 'calls.txt').open('a') as calls:
    print(work.parent.name, cfg['randomness']['seed'], resume, file=calls)
if cfg['lambda_bg'] == 1.5 and (here / 'broken').exists():
    print('the disk is full')
    sys.exit(3)
unit, ends = ('iter', range(10, 60, 10)) if cfg['train_cfg']['type'] == 'IterBasedTrainLoop' else ('epoch', (1, 2, 3))
for end in ends:
    (work / f'{unit}_{end}.pth').write_text(str(cfg['lambda_bg']))
if options.get('default_hooks.checkpoint.max_keep_ckpts') != '-1':
    for end in ends[:-2]:
        (work / f'{unit}_{end}.pth').unlink()
(work / 'last_checkpoint').write_text(str(work / f'{unit}_{ends[-1]}.pth'))
"""
# A worker whose children run the stand-in. It imports nothing, so it is there at once.
WORKER = f"""
import runpy, socket, sys
from pathlib import Path
serve = runpy.run_path({worker.__file__!r})['serve']
command = serve(socket.socket(fileno=int(sys.argv[1])), lambda: None)
if command is not None:
    sys.argv = [str(Path(__file__).with_name('command.py')), *command.arguments]
    runpy.run_path(sys.argv[0], run_name='__main__')
"""
VARIANTS = (
    "variants = {'λ=0': dict(lambda_bg=0.0), 'λ=1.5': dict(lambda_bg=1.5), "
    "'long': {'lambda_bg': 1.0, 'burn_in': 2, 'randomness.deterministic': True}}"
)
CONFIG = """
lambda_bg = 0.3
burn_in = 1
randomness = dict(seed=0)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
default_hooks = dict(checkpoint=dict(interval=1), lambda_bg=dict(type='LambdaBgSchedulerHook'))
"""


class Stage:
    """A folder with a config, variants and the stand-in. A call runs the ablation and returns its exit code."""

    def __init__(self, folder: Path, monkeypatch):
        monkeypatch.setattr(processes, 'COMMAND', (sys.executable, str(folder / 'command.py')))
        monkeypatch.setattr(processes, 'WORKER', (sys.executable, str(folder / 'worker.py')))
        self.folder, self.work = folder, folder / 'work'
        self.write('command.py', COMMAND)
        self.write('worker.py', WORKER)
        self.write('variants.py', VARIANTS)
        self.write('config.py', CONFIG)
        self.write('calls.txt', '')

    def write(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content, encoding='utf-8')

    def __call__(self, *options: str) -> int:
        argv = [str(self.folder / 'config.py'), '--variants', str(self.folder / 'variants.py')]
        return ablate.main([*argv, '--work-dir', str(self.work), *options])

    def calls(self) -> list[str]:
        """A line for each training: the folder of the variant, the seed and the checkpoint that it starts from."""
        return (self.folder / 'calls.txt').read_text().splitlines()
