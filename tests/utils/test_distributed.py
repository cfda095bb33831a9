"""Two processes on CPUs, connected by gloo. They train like one process. If one dies, the other ends."""

import copy
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmyolo_bgpenalty import lambda_bg_at
from mmyolo_bgpenalty.cli.run import read_config
from mmyolo_bgpenalty.utils.distributed import init_cpu_processes, sync_batch_norm_on_cpu
from tests.helpers.processes import in_two_processes
from tests.helpers.semi import SHAPE, build, build_dense, sample, teacher_sees
from tests.helpers.tiny import CONFIGS, ROOT, SEMI, load, make_images, make_set

BATCHES, EPOCHS = 5, 4  # 10 unlabeled images, 2 in a global batch


# The divisor of the losses

VARIANTS = {
    'plain': dict(),
    'original': dict(head=dict(sparse_targets=False, bg_penalty=dict(normalizer='positives'))),
    'hard': dict(head=dict(bg_penalty=dict(normalizer='hard', hard_score=0.5))),
    'dense': dict(dense=dict(share=0.5)),
    'empty': dict(),  # with a branch of empty images
    'batch norm': dict(),  # the same in training mode
}
UNSYNCED = ('plain', 'dense')
OBJECTS, PSEUDO_BOXES = [4, 3, 1, 0], [3, 1, 0, 0]  # in four images. Each process has two of them.


def gradients(variant: str, synced: bool, images: range, rank: int = 0) -> torch.Tensor:
    """The gradients of all parameters of the student, as one vector. ``images`` chooses some of four images."""
    make = build_dense if variant == 'dense' else build
    model = make(sync_avg_factor=synced, **copy.deepcopy(VARIANTS[variant]))
    if variant != 'batch norm':
        for module in model.student.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()  # otherwise each process has its own batch normalization statistics
    sync_batch_norm_on_cpu(model)
    module = model.student.bbox_head.head_module
    for scores, distances in zip(module.cls_preds, module.reg_preds):
        # With these biases, boxes are as large as the objects, and the sum of the assigned scores is above 1.
        torch.nn.init.zeros_(scores[-1].bias)
        distances[-1].bias.data.view(4, -1)[:, 2] = 8
    model.student.bbox_head.lambda_bg = 2.0
    teacher_sees(model, [PSEUDO_BOXES[i] for i in images])
    model.keep_latest = rank == 0  # as if PseudoLabelPicturesHook drew pictures in process 0
    generator = torch.Generator().manual_seed(1)
    pixels = {branch: torch.rand(4, 3, *SHAPE, generator=generator) for branch in ('sup', 'strong')}
    inputs = dict(
        sup=pixels['sup'][images], unsup_teacher=pixels['strong'][images], unsup_student=pixels['strong'][images]
    )
    if variant in ('empty', 'batch norm'):
        inputs['bg'] = pixels['strong'][images]
    # The last two pictures fill a quarter of the input. The rest is padding, not background.
    homographies = [np.diag([*[0.5 if i > 1 else 1.0] * 2, 1.0]).astype(np.float32) for i in images]
    samples = {
        branch: [
            sample(homography, OBJECTS[i] if branch == 'sup' else 0) for i, homography in zip(images, homographies)
        ]
        for branch in inputs
    }
    for data_sample in samples['sup']:
        boxes = data_sample.gt_instances.bboxes
        boxes += torch.arange(len(boxes))[:, None] * torch.tensor([4.0, 0, 14, 6])
    losses, _ = model.parse_losses(model.loss(inputs, samples))
    losses.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.student.parameters()])


def gradients_of_a_rank(rank):
    own = range(2 * rank, 2 * rank + 2)
    cases = [(name, True) for name in VARIANTS] + [(name, False) for name in UNSYNCED]
    return {case: gradients(*case, own, rank).numpy() for case in cases}


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    """The mean of the gradients of two processes, as DDP computes it, in each variant."""
    first, second = in_two_processes(gradients_of_a_rank, tmp_path_factory.mktemp('pair'))
    return {case: torch.from_numpy(first[case] + second[case]) / 2 for case in first}


def difference(one, other) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize('variant', VARIANTS)
def test_synced_losses_are_those_of_the_global_batch(variant, pair):
    """Process 1 has few objects, much padding and no pseudo-boxes."""
    rounding = 1e-4 if variant == 'batch norm' else 1e-5
    assert difference(pair[variant, True], gradients(variant, True, range(4))) < rounding


@pytest.mark.parametrize('variant', UNSYNCED)
def test_without_sync_each_process_divides_by_its_own_avg_factor(variant, pair):
    """As in MMYOLO, the losses are multiplied by the number of processes, because DDP takes the mean."""
    expected = sum(gradients(variant, False, images) for images in (range(2), range(2, 4)))
    assert difference(pair[variant, False], expected) < 1e-5
    assert difference(pair[variant, True], expected) > 0.05


def test_one_process_has_nothing_to_sync():
    assert torch.equal(gradients('plain', True, range(4)), gradients('plain', False, range(4)))


# Runs of tools/dist_train.sh


def make_config(data, folder, **options):
    """A folder with a config file. The run writes into it."""
    folder.mkdir()
    cfg = load(
        SEMI,
        data,
        folder / 'run',
        burn_in=1,
        lambda_bg_warmup=2,
        lambda_bg=2.0,
        param_scheduler=[],  # the full learning rate from the first iteration on
        train_cfg__max_epochs=EPOCHS,
        train_cfg__val_interval=EPOCHS,
        val_dataloader__batch_size=2,
        val_dataloader__dataset__ann_file='odd.json',
        val_evaluator__ann_file=f'{data}/odd.json',
        model__semi_train_cfg__unsup_weight=1.0,
        # An early teacher has low scores, so score_thr is 0. class_thresholds leave some images without a pseudo-box.
        model__semi_train_cfg__pseudo_test_cfg=dict(score_thr=0.0, max_per_img=5),
        model__semi_train_cfg__class_thresholds=dict(
            _delete_=True, type='ClassFrequency', window=12, min_images=4, floor=0.0
        ),
        default_hooks__mean_teacher__momentum=0.25,
        default_hooks__quality=dict(type='PseudoLabelQualityHook', interval=1, iou_thr=0.1),
        default_hooks__checkpoint__interval=-1,
        default_hooks__checkpoint__save_best=None,
        custom_imports=dict(imports=['mmyolo_bgpenalty', 'tests.helpers.process_recorder']),
        custom_hooks=[dict(type='ProcessRecorder', folder=str(folder), end=options.pop('end', None))],
        **options,
    )
    del cfg.default_hooks.check  # it predicts an image, which needs fp32. See process_recorder
    cfg.dump(folder / 'config.py')
    return folder


def dist_train(folder, *arguments, **environment):
    paths = f'{ROOT / "tests"}{os.pathsep}{ROOT}'
    return subprocess.run(
        [str(ROOT / 'tools/dist_train.sh'), *arguments],
        cwd=folder,
        env={**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': paths, 'PYTHONWARNINGS': 'ignore', **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def free_port() -> str:
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return str(one.getsockname()[1])


def rows_of(folder, rank):
    return [json.loads(line) for line in (folder / f'{rank}.jsonl').read_text().splitlines()]


def alike(first, second, name):
    return [row.get(name) for row in first] == [row.get(name) for row in second]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = make_set(tmp_path_factory.mktemp('set'))
    make_images(root, 'odd', 5, seed=9)  # each process evaluates three; one image is evaluated twice
    return root


GROUP_NORM = {
    f'model__detector__{part}__norm_cfg': dict(_delete_=True, type='GN', num_groups=1)
    for part in ('backbone', 'neck', 'bbox_head__head_module')
}


@pytest.fixture(scope='module')
def two(data, tmp_path_factory):
    """Two processes with group normalization: with batch normalization rounding errors grow tenfold in 2 iterations."""
    folder = make_config(data, tmp_path_factory.mktemp('two') / 'a', train_dataloader__batch_size=2, **GROUP_NORM)
    done = dist_train(folder, 'config.py', '2', PORT=free_port())
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope='module')
def one(data, tmp_path_factory):
    """One process with the same global batch."""
    folder = make_config(data, tmp_path_factory.mktemp('one') / 'a', train_dataloader__batch_size=4, **GROUP_NORM)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            torch.set_default_dtype(torch.float64)  # as in process_recorder
            Runner.from_cfg(Config.fromfile(folder / 'config.py')).train()
    finally:
        torch.set_default_dtype(torch.float32)
    return folder


@pytest.fixture(scope='module')
def rows(two, one):
    """The rows of process 0, process 1 and the single process: the sets, then each iteration, then the metrics."""
    found = [rows_of(two, 0), rows_of(two, 1), rows_of(one, 0)]
    assert [len(part) for part in found] == [1 + BATCHES * EPOCHS + 1] * 3
    return found


def test_every_process_has_the_same_plan_models_and_sets(rows, two):
    first, second, alone = rows
    for name in ('sets', 'iteration', 'lambda_bg', 'ramp', 'student', 'teacher', 'thresholds', 'quality', 'metrics'):
        assert alike(first, second, name), name
    assert alike(first, alone, 'sets') and alike(first, alone, 'ramp')
    plan = dict(lambda_bg=2.0, burn_in=1, warmup=2, schedule='linear')
    for row in first[1:-1]:
        assert row['lambda_bg'] == pytest.approx(lambda_bg_at(row['iteration'] / BATCHES, **plan), abs=1e-12)
    assert len({row['teacher'] for row in first[1:-1]}) == BATCHES * EPOCHS  # it changes in each iteration


def test_the_processes_disconnect_before_they_end(two):
    """Threads of gloo may abort a process that has finished but is still connected."""
    assert [(two / f'{rank}.end').read_text() for rank in (0, 1)] == ['False', 'False']


def test_the_processes_share_every_global_batch(rows):
    first, second, alone = rows
    for one, other, both in zip(first[1:-1], second[1:-1], alone[1:-1]):
        for name in ('labeled', 'unlabeled'):
            assert sorted(one[name] + other[name]) == sorted(both[name])
            assert len(one[name]) == len(other[name])
    _, unlabeled = first[0]['sets']
    for epoch in range(1, EPOCHS):
        steps = slice(1 + epoch * BATCHES, 1 + (epoch + 1) * BATCHES)
        seen = [path for part in (first, second) for row in part[steps] for path in row['unlabeled']]
        assert sorted(seen) == sorted(unlabeled)


def test_losses_and_weights_are_those_of_one_process(rows, two, one):
    first, second, alone = rows
    for own, other, both in zip(first[1:-1], second[1:-1], alone[1:-1]):
        assert own['outputs'].keys() == other['outputs'].keys() == both['outputs'].keys()
        for name, expected in both['outputs'].items():
            if name != 'semi/pseudo_score':  # a mean over boxes: one process may have more boxes than the other
                mean = (own['outputs'][name] + other['outputs'][name]) / 2
                assert mean == pytest.approx(expected, rel=1e-5, abs=1e-7), (own['iteration'], name)
    states = [torch.load(folder / f'{rank}.pth') for folder, rank in ((two, 0), (two, 1), (one, 0))]
    for name, expected in states[2].items():
        assert torch.equal(states[0][name], states[1][name]), name
        torch.testing.assert_close(states[0][name], expected, rtol=1e-5, atol=1e-5, msg=name)


def test_one_process_may_lack_pseudo_boxes(rows):
    """The thresholds follow the scores of both processes. The test above compares losses and weights."""
    counts = [[row['outputs']['semi/pseudo_boxes'] for row in part[1:-1]] for part in rows[:2]]
    lacking = [min(pair) == 0 < max(pair) for pair in zip(*counts)]
    assert sum(lacking) >= 2
    thresholds = [row['thresholds'] for row in rows[2][1:-1]]
    assert len({str(row) for row in thresholds if row}) > 5
    for row, alone in zip(rows[0][1:-1], thresholds):
        assert row['thresholds'] == (alone and pytest.approx(alone, abs=1e-6))


def test_metrics_and_pseudo_label_quality_are_those_of_one_process(rows):
    """Each process evaluates three of five images."""
    first, _, alone = rows
    metrics, expected = ({k: v for k, v in part[-1]['metrics'].items() if 'time' not in k} for part in (first, alone))
    assert {'teacher/coco/bbox_mAP_50', 'student/pr/f1', 'student/pr/fp_per_image'} <= metrics.keys()
    assert metrics == pytest.approx(expected, abs=1e-5, nan_ok=True)
    quality = [row['quality'] for row in first[1:-1]]
    assert quality == [row['quality'] for row in alone[1:-1]]
    assert any(values[0] for values in quality)


@pytest.mark.parametrize(
    'end, said',
    [
        ('raises', 'process 1 dies here'),
        pytest.param('killed', 'Signal 9 (SIGKILL)', marks=pytest.mark.slow),
        pytest.param('stopped', 'Timed out waiting 10000ms', marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_ends_the_job(end, said, data, tmp_path):
    """If a process is suspended (SIGSTOP), the job ends after the timeout. Until then, both have equal models."""
    folder = make_config(data, tmp_path / 'a', train_dataloader__batch_size=2, end=end)
    timeout = ('--cfg-options', 'env_cfg.dist_cfg.timeout=10') if end == 'stopped' else ()
    done = dist_train(folder, 'config.py', '2', *timeout, PORT=free_port())
    assert done.returncode not in (0, None) and said in done.stderr
    first, second = rows_of(folder, 0), rows_of(folder, 1)
    assert [len(part) for part in (first, second)] == [1 + 2 * BATCHES] * 2
    assert alike(first, second, 'student') and alike(first, second, 'teacher')
    for row, *_ in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(row['pid'], 0)


# Scripts and settings


def test_dist_train_prints_its_usage(tmp_path):
    done = dist_train(tmp_path, 'config.py')
    assert done.returncode == 2 and 'tools/dist_train.sh CONFIG GPUS' in done.stderr and not done.stdout


def test_slurm_train_starts_one_process_for_each_gpu(tmp_path):
    """A fake srun prints its arguments. Slurm itself does not run."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"; echo "PYTHONPATH=$PYTHONPATH"\n')
    srun.chmod(0o755)
    script = str(ROOT / 'tools/slurm_train.sh')
    env = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='16', SRUN_ARGS='--time=10 --qos=a', PYTHON='python3.11')
    arguments = ['gpu', 'a job', 'a config.py', 'a dir', '--resume', '--cfg-options', 'burn_in=3']
    done = subprocess.run([script, *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *words, path = done.stdout.splitlines()
    assert words == [
        *('--partition=gpu', '--job-name=a job', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8'),
        *('--cpus-per-task=5', '--kill-on-bad-exit=1', '--time=10', '--qos=a', 'python3.11', '-u'),
        *(str(ROOT / 'tools/train.py'), 'a config.py', '--work-dir', 'a dir', '--launcher', 'slurm'),
        *('--resume', '--cfg-options', 'burn_in=3'),
    ]
    assert path == f'PYTHONPATH={ROOT}/tools/..'
    done = subprocess.run([script, *arguments[:3]], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and 'tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR' in done.stderr


def test_settings_that_only_mmengine_reads_may_be_overridden():
    cfg = read_config(str(CONFIGS / SEMI), {'sync_bn': 'torch', 'find_unused_parameters': True})
    assert cfg.sync_bn == 'torch' and cfg.find_unused_parameters is True


def test_mmcvs_sync_bn_needs_gpus():
    with pytest.raises(ValueError, match="`sync_bn` to be 'torch' on a CPU, but got 'mmcv'"):
        init_cpu_processes(Config(dict(sync_bn='mmcv')))


IMAGES_BY_RANK = (slice(0, 1), slice(1, 4))  # the processes may have unequal batches


def normalized(images: slice, synchronized: bool) -> dict[str, torch.Tensor]:
    """Output, gradients and statistics of a layer after two batches."""
    generator = torch.Generator().manual_seed(2)
    layer = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.03)
    torch.nn.init.normal_(layer.weight, generator=generator)
    if synchronized:
        sync_batch_norm_on_cpu(layer)
    for _ in range(2):
        x = torch.randn(4, 3, 5, 2, generator=generator) * 2 + 100
        up = torch.randn(4, 3, 5, 2, generator=generator)
        x = x[images].requires_grad_()
        y = layer(x)
        layer.zero_grad()
        (y * up[images]).sum().backward()
    found = dict(y=y.detach(), x=x.grad, weight=layer.weight.grad, bias=layer.bias.grad, **dict(layer.named_buffers()))
    return found | dict(evaluated=layer.eval()(x).detach())


def normalized_by_a_rank(rank):
    return {name: value.numpy() for name, value in normalized(IMAGES_BY_RANK[rank], synchronized=True).items()}


def test_batch_norm_has_the_statistics_of_the_global_batch(tmp_path):
    ranks = [
        {name: torch.from_numpy(value) for name, value in found.items()}
        for found in in_two_processes(normalized_by_a_rank, tmp_path)
    ]
    for name, expected in normalized(slice(None), synchronized=False).items():
        if name in ('y', 'x', 'evaluated'):
            both = torch.cat([found[name] for found in ranks])
        elif name in ('weight', 'bias'):
            both = sum(found[name] for found in ranks)
        else:
            assert torch.equal(ranks[0][name], ranks[1][name])
            both = ranks[0][name]
        torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-4, msg=name)


def test_batch_norm_is_synchronized_as_on_gpus(monkeypatch):
    """MMYOLO's detectors synchronize by default, others if `sync_bn` is set."""
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda *args, **kwargs: None)

    def asks(**options) -> bool:
        return init_cpu_processes(Config(options))

    assert asks(model=dict(type='YOLODetector')) and not asks(model=dict(type='YOLODetector', use_syncbn=False))
    assert asks(model=dict(detector=dict(type='mmyolo.YOLODetector'))) and not asks(model=dict(type='FasterRCNN'))
    assert asks(model=dict(type='FasterRCNN'), sync_bn='torch')
