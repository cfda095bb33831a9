"""A checkpoint is called good only after a look, and the last good one is kept."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_bgpenalty import ResumableCheckpointHook
from tests.helpers.tiny import SUPERVISED, load, train


class Spoil(Hook):
    """Gives a weight a value before an iteration."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration, value):
        self.iteration, self.value = iteration, value

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            runner.model.bbox_head.head_module.cls_preds[0][2].bias.data.fill_(self.value)


def small(data, work_dir, **options):
    checkpoint = dict(interval=1, by_epoch=False, save_best=None, max_keep_ckpts=1)
    fixed = dict(burn_in=0, train_dataloader__batch_size=3, default_hooks__checkpoint=checkpoint)
    cfg = load(SUPERVISED, data, work_dir, **{**fixed, 'train_cfg__max_epochs': 5, **options})
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    return cfg


# iter_3 was saved just before a skipped iteration, so nobody knows whether its weights are good.
@pytest.mark.parametrize(
    'value, left', [(math.nan, ['iter_2.pth', 'iter_3.pth']), (3e38, ['iter_2.pth', 'iter_6.pth'])]
)
def test_bad_weights_push_no_good_checkpoint_out(data, tmp_path, value, left):
    cfg = small(data, tmp_path, default_hooks__guard__max_skips=3)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Spoil(3, value))
    with pytest.raises(FloatingPointError, match=r'Stopped in iteration 7 ') as caught:
        runner.train()
    assert sorted(file.name for file in tmp_path.glob('*.pth')) == left
    assert f'The last good checkpoint is {tmp_path}/iter_2.pth, which --resume takes' in str(caught.value)
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    refused = re.findall(r'iter_(\d).pth is not saved: \d+ of its tensors are NaN or infinite, the first is (\S+)', log)
    assert [number for number, _ in refused] == (['4', '5', '6'] if value != value else [])
    assert all(name == 'bbox_head.head_module.cls_preds.0.2.bias.' for _, name in refused)


def test_a_run_in_a_used_folder_and_a_branch_leave_other_files_alone(data, tmp_path):
    train(small(data, tmp_path / 'a', train_cfg__max_epochs=1))
    first = (tmp_path / 'a/iter_2.pth').read_bytes()
    assert sorted(file.name for file in (tmp_path / 'a').glob('*.pth')) == ['iter_2.pth']
    cfg = small(data, tmp_path / 'a/b', train_cfg__max_epochs=2, resume=True, load_from=str(tmp_path / 'a/iter_2.pth'))
    train(cfg)
    assert sorted(file.name for file in (tmp_path / 'a').glob('**/*.pth')) == ['iter_2.pth', 'iter_4.pth']
    train(small(data, tmp_path / 'a', train_cfg__max_epochs=1))
    (aside,) = (tmp_path / 'a').glob('before_*/iter_2.pth')
    assert aside.read_bytes() == first


def test_a_model_that_is_not_finite_is_not_the_best_and_its_metrics_mean_nothing():
    said = []
    model = torch.nn.BatchNorm2d(2)
    model.running_mean[1] = math.nan
    logger = SimpleNamespace(error=said.append, warning=said.append)
    runner, hook = SimpleNamespace(model=model, hooks=[], logger=logger), ResumableCheckpointHook(save_best='mAP')
    for batch in range(2):
        hook.before_val_iter(runner, batch)
    hook.after_val_epoch(runner, dict(mAP=0.9))
    bad = '1 of its tensors are NaN or infinite, the first is running_mean'
    assert said[0].startswith('The metrics of this validation mean nothing: 1 tensors of the model are NaN or infinite')
    assert said[1:] == [f'This model cannot be the best one: {bad}']
