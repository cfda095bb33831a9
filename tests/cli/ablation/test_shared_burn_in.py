"""Runs that are equal during burn-in train it once. Training and testing are a stand-in."""

import pytest
import torch

from mmyolo_bgpenalty.cli.ablation.runs import progress_of
from tests.helpers.ablations import CONFIG, Stage

SEMI, LABELS_ONLY, OTHER = "'semi': {}", "'labels only': dict(burn_in=1000)", "'other': {'randomness.x': 1}"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def starts(stage):
    """Variant -> the file that its training started from."""
    rows = [call.split() for call in stage.calls()]
    return {name: source.removeprefix(f'{stage.work}/') for name, _, source in rows}


@pytest.mark.parametrize('jobs', ['1', '2'])
@pytest.mark.parametrize('order', [(SEMI, LABELS_ONLY, OTHER), (LABELS_ONLY, OTHER, SEMI), (OTHER, SEMI, LABELS_ONLY)])
def test_the_order_of_the_variants_is_free(stage, order, jobs):
    """The run with only labels continues after the burn-in of the others. So they start from it, wherever it stands."""
    stage.write('variants.py', f'variants = {{{", ".join(order)}}}')
    assert stage('--seeds', '0', '--jobs', jobs) == 0
    assert starts(stage) == {'labels_only': 'None', 'other': 'None', 'semi': 'labels_only/seed_0/epoch_1.pth'}


def test_the_longest_common_burn_in_is_shared(stage):
    stage.write('variants.py', f"variants = {{'none': dict(burn_in=0), {SEMI}, 'λ=1': dict(lambda_bg=1, burn_in=2.5)}}")
    assert stage('--seeds', '0') == 0
    assert starts(stage) == {'none': 'None', 'lambda_1': 'None', 'semi': 'lambda_1/seed_0/epoch_1.pth'}


def test_a_variant_that_is_added_later_starts_from_a_finished_run(stage):
    stage.write('variants.py', f'variants = {{{SEMI}, {LABELS_ONLY}}}')
    assert stage('--seeds', '0') == 0
    stage.write('variants.py', f"variants = {{'λ=2': dict(lambda_bg=2.0), {SEMI}, {LABELS_ONLY}}}")
    assert stage('--seeds', '0') == 0
    assert starts(stage)['lambda_2'] == 'labels_only/seed_0/epoch_1.pth' and len(stage.calls()) == 3


def test_no_run_starts_from_the_end_of_another(stage):
    stage.write('variants.py', "variants = {'a': dict(burn_in=1000), 'b': dict(burn_in=1000, lambda_bg=1.0)}")
    assert stage('--seeds', '0') == 0
    assert starts(stage) == {'a': 'None', 'b': 'a/seed_0/epoch_2.pth'}


def test_lengths_in_iterations(stage):
    """The stand-in saves a checkpoint every 10 iterations. Burn-in ends between two of them."""
    loop = "dict(type='IterBasedTrainLoop', max_iters=50)"
    config = CONFIG.replace("dict(type='EpochBasedTrainLoop', max_epochs=3)", loop).replace('burn_in = 1', 'burn_in=25')
    stage.write('config.py', config.replace("'LambdaBgSchedulerHook'", "'LambdaBgSchedulerHook', by_epoch=False"))
    stage.write('variants.py', f'variants = {{{SEMI}, {LABELS_ONLY}}}')
    assert stage('--seeds', '0') == 0
    assert starts(stage) == {'labels_only': 'None', 'semi': 'labels_only/seed_0/iter_20.pth'}


def test_the_progress_of_a_checkpoint(tmp_path):
    content = dict(resume=dict(batches=8))
    for name, epochs, iterations in (('epoch_3', 3, 24), ('iter_20', 2.5, 20), ('epoch_1_iter_12', 1.5, 12)):
        file = tmp_path / f'{name}.pth'
        torch.save(content, file)
        assert (progress_of(file, True), progress_of(file, False)) == (epochs, iterations)
    for name in ('best_coco_epoch_3', 'last'):
        assert progress_of(tmp_path / f'{name}.pth', True) is None
    (tmp_path / 'iter_5.pth').write_text('broken')
    assert progress_of(tmp_path / 'iter_5.pth', True) is None
