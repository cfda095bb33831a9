"""Losses of images without objects."""

import copy
import dataclasses
import math

import pytest
import torch
from mmyolo.registry import MODELS

from mmyolo_bgpenalty.config_check.check import check_config
from mmyolo_bgpenalty.models.empty_branch import EmptyBranch
from tests.helpers.good_parts import own_empty, set_with_good_parts
from tests.helpers.heads import GRIDS, NO_OBJECTS, OBJECTS, batch, build, features
from tests.helpers.tiny import SEMI, load, train

PENALTIES = ({}, dict(focal=True, gamma=0.0), dict(normalizer='hard', hard_score=0.15))


def head_after_labels(objects=OBJECTS, **penalty):
    """A head after a labeled batch, and its predictions for two more images."""
    head = build(bg_penalty=dict(lambda_bg=1.5, **penalty), assigner='SparseTaskAlignedAssigner')
    head.loss(features(), batch('list', objects))
    return head, [level.detach().requires_grad_() for level in head(features())[0]]


@pytest.mark.parametrize('penalty', PENALTIES, ids=str)
def test_equals_the_naive_sum(penalty):
    head, logits = head_after_labels()
    options = dataclasses.replace(head.bg_penalty, **penalty)
    losses = head.loss_without_objects(logits, [{}, {}], options)
    z = torch.cat([level.flatten(2) for level in logits], 2).mT.detach().double()
    p = z.amax(2).sigmoid().flatten()
    hard = p[p > options.hard_score]
    assert 1 < len(hard) < len(p)
    weight, number = head.loss_cls.loss_weight, float(head.latest.positives)
    assert losses['loss_cls'].item() == pytest.approx(weight * float(torch.log1p(z.exp()).sum()) / number, rel=1e-5)
    counted = hard if options.normalizer == 'hard' else p
    terms = -counted.pow(options.gamma) * torch.log1p(-counted) if options.focal else counted
    assert losses['loss_bg'].item() == pytest.approx(1.5 * weight * 2 * float(terms.mean()), rel=1e-5)


MANY = ([[8.0, 8, 56, 56]] * 6, [0, 1, 2, 0, 1, 2]), ([[4.0, 4, 60, 60]] * 6, [0, 1, 2, 0, 1, 2])


def confident_head():
    """With ``MANY`` objects, the sum of the assigned scores per image is above 1."""
    head = build(bg_penalty=dict(lambda_bg=0), assigner='SparseTaskAlignedAssigner')
    for predictor in head.head_module.cls_preds:
        torch.nn.init.constant_(predictor[-1].bias, 3)
    return head


def test_positives_weigh_a_prior_as_in_a_labeled_batch():
    """The gradient to the logits of empty images is that of one batch with labeled and empty images."""
    head = confident_head()
    outs = [[level.detach() for level in out] for out in head(features())]
    joint = [[torch.cat([level, level]) for level in out] for out in outs]  # the same predictions for four images
    joint[0] = [level.requires_grad_() for level in joint[0]]
    samples = batch('list', [*MANY, *NO_OBJECTS])
    head.forward = lambda feats: tuple(joint)
    head.loss(None, samples)['loss_cls'].backward()
    head.forward = lambda feats: tuple(outs)
    head.loss(None, samples[:2])
    assert head.latest.positives > 1
    logits = [level.clone().requires_grad_() for level in outs[0]]
    head.loss_without_objects(logits, [{}, {}], head.bg_penalty)['loss_cls'].backward()
    for found, expected in zip(logits, joint[0]):  # MMYOLO multiplies by the number of images, here 4
        torch.testing.assert_close(found.grad, expected.grad[2:] / 2)


def test_a_labeled_batch_without_objects_does_not_change_the_scale():
    head, found = confident_head(), []
    logits = [level.detach() for level in head(features())[0]]
    for objects in (NO_OBJECTS, MANY, NO_OBJECTS):
        head.loss(features(), batch('list', objects))
        found.append(head.loss_without_objects(logits, [{}, {}], head.bg_penalty)['loss_cls'].item())
    assert found[2] == found[1] < 0.9 * found[0]
    assert head.latest.positives == pytest.approx(found[0] / found[1]) and head.latest.positives > 1.1


def test_padding_is_no_background():
    head, logits = head_after_labels()
    metas = [dict(img_shape=(64, 32), ori_shape=(64, 32), homography_matrix=torch.eye(3).numpy())] * 2
    head.loss_without_objects(logits, metas, head.bg_penalty)['loss_bg'].backward()
    for level, size in zip(logits, GRIDS):
        reached = level.grad.abs().sum((0, 1)).gt(0)
        assert reached[:, : size // 2].all() and not reached[:, size // 2 :].any()


def test_lambda_0_has_no_penalty():
    head, logits = head_after_labels()
    head.lambda_bg = 0
    assert head.loss_without_objects(logits, [{}, {}], head.bg_penalty)['loss_bg'] == 0


@pytest.mark.parametrize(
    'of_head, given, expected',
    [
        (dict(normalizer='hard', hard_score=0.2), dict(normalizer='background'), ('background', 0.1)),
        (dict(normalizer='hard', hard_score=0.2), dict(hard_score=0.3), ('hard', 0.3)),
        (dict(normalizer='hard', hard_score=0.2), dict(focal=True), ('hard', 0.2)),
    ],
)
def test_options_on_top_of_those_of_the_head(of_head, given, expected):
    found = EmptyBranch.from_cfg(dict(penalty=given)).options_for(build(bg_penalty=of_head))
    assert (found.normalizer, found.hard_score) == expected


@pytest.mark.parametrize('kind', ['BgPenaltyYOLOv8Head', 'YOLOv8Head'])
def test_options_that_do_not_fit_the_head(kind):
    message = '`bg_branch.penalty`: .*hard_score' if kind.startswith('Bg') else 'but got YOLOv8Head'
    with pytest.raises(ValueError, match=message):
        EmptyBranch.from_cfg(dict(penalty=dict(hard_score=0.3))).options_for(build(kind))


class OneHead:
    """A detector whose network is a mean: features of an image of H x W pixels have the sizes of ``GRIDS``."""

    def __init__(self):
        self.bbox_head, self.seen = build(bg_penalty=dict(lambda_bg=1.5), assigner='SparseTaskAlignedAssigner'), []

    def extract_feat(self, images):
        self.seen.append(images)
        scale = images.mean((1, 2, 3))[:, None, None, None]
        return [level[:1] * scale for level in features()]


def both(detector, sizes=((64, 64), (64, 64)), **options):
    torch.manual_seed(3)
    inputs = {name: torch.randn(2, 3, *size) for name, size in zip(('sup', 'bg'), sizes)}
    samples = dict(sup=batch('list', OBJECTS), bg=batch('list', NO_OBJECTS))
    return inputs, samples, EmptyBranch.from_cfg(options).losses(detector, inputs, samples)


def test_one_forward_pass_gives_the_losses_of_two():
    """Without batch normalization. With it, the statistics are those of labeled and empty images together."""
    detector = OneHead()
    for module in detector.bbox_head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    inputs, samples, (labeled, empty) = both(detector)
    head = detector.bbox_head
    alone = head.loss(detector.extract_feat(inputs['sup']), samples['sup'])
    scores = head(detector.extract_feat(inputs['bg']))[0]
    expected = head.loss_without_objects(scores, [sample.metainfo for sample in samples['bg']], head.bg_penalty)
    torch.testing.assert_close(labeled, alone)
    share = empty.pop('bg/with_alarm')
    torch.testing.assert_close(empty, {f'bg_{name}': loss for name, loss in expected.items()})
    assert all(loss > 0 for loss in (*labeled.values(), *empty.values()))
    highest = torch.cat([level.flatten(1) for level in scores], 1).amax(1).sigmoid()
    assert share == (highest >= 0.25).float().mean()


@pytest.mark.parametrize('scores, share', [((0.2, 0.2), 0), ((0.2, 0.3), 0.5), ((0.3, 0.9), 1)])
def test_the_share_of_empty_images_with_an_alarm(scores, share):
    detector = OneHead()
    logits = torch.full((4, 3, 1, 1), -9.0)
    logits[2:, 1, 0, 0] = torch.tensor(scores).logit()
    outs = detector.bbox_head(features())
    outs[0][:] = [logits.expand(4, 3, size, size) for size in GRIDS]
    outs[1][:], outs[2][:] = ([torch.cat([level, level]) for level in out] for out in outs[1:])
    detector.bbox_head.forward = lambda feats: outs
    assert both(detector)[2][1]['bg/with_alarm'] == share


def test_batch_normalization_sees_labeled_and_empty_images_together():
    detector = OneHead()
    inputs = both(detector)[0]
    (seen,) = detector.seen
    assert torch.equal(seen, torch.cat([inputs['sup'], inputs['bg']]))


def test_images_of_two_sizes_get_padding():
    detector = OneHead()
    inputs = both(detector, ((64, 64), (32, 48)))[0]
    (seen,) = detector.seen
    assert torch.equal(seen[2:, :, :32, :48], inputs['bg']) and seen.shape == (4, 3, 64, 64)
    assert not seen[2:, :, 32:].any() and not seen[2:, :, :, 48:].any()


@pytest.mark.parametrize('weights', [{}, dict(loss_bg=0.0)])
def test_a_weight_of_0_stops_a_loss_that_is_not_finite(weights):
    detector = OneHead()
    losses = dict(loss_cls=torch.ones(()), loss_bg=torch.tensor(math.nan))
    detector.bbox_head.loss_without_objects = lambda *args: losses
    found = both(detector, loss_weights=weights)[2][1]
    assert found['bg_loss_cls'] == 1 and bool(found['bg_loss_bg'] == 0) == bool(weights)


@pytest.mark.parametrize('branches', [('sup',), ('sup', 'bg')])
def test_the_penalty_is_on_empty_images_only(branches, data, tmp_path):
    """In the shipped config. Without its weights of labeled losses it is on labeled images, too."""
    cfg = own_empty(data, tmp_path)
    cfg.model.update(init_cfg=None, bbox_head=dict(cfg.model.bbox_head, bg_penalty=dict(lambda_bg=0.5)))
    plain, weighed = (MODELS.build(model) for model in (dict(cfg.model, sup_loss_weights=None), cfg.model))
    weighed.load_state_dict(plain.state_dict())
    inputs = {branch: torch.rand(2, 3, 64, 64) for branch in branches}
    samples = {branch: batch('list', objects) for branch, objects in (('sup', OBJECTS), ('bg', NO_OBJECTS))}
    found, expected = (model.loss(inputs, copy.deepcopy(samples)) for model in (weighed, plain))
    assert found.keys() == expected.keys() and found['loss_bg'] == 0 < expected['loss_bg']
    for name in found.keys() - {'loss_bg'}:
        assert torch.equal(found[name], expected[name])
    assert ('bg_loss_bg' in found) == ('bg' in branches) and found.get('bg_loss_bg', 1) > 0


@pytest.mark.parametrize('weights', [dict(loss_obj=1.0), dict(loss_bg=-1.0)])
def test_bad_weights_of_labeled_losses_are_refused(weights, data, tmp_path):
    with pytest.raises(ValueError, match='sup_loss_weights'):
        MODELS.build(dict(own_empty(data, tmp_path).model, sup_loss_weights=weights))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(normaliser='images'), '`bg_branch`'),
        (dict(loss_weights=dict(loss_bbox=1.0)), '`bg_branch.loss_weights`'),
        (dict(loss_weights=dict(loss_cls=-1.0)), '`bg_branch.loss_weights.loss_cls`.*got -1'),
        (dict(penalty=dict(focus=True)), '`bg_branch.penalty`'),
        (dict(penalty=dict(normalizer='none')), "got 'none'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EmptyBranch.from_cfg(options)


def recorded(runner, name):
    """The values of a loss in the log, one for each iteration."""
    return runner.message_hub.get_scalar(f'train/{name}').data[0]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return set_with_good_parts(tmp_path_factory.mktemp('set'), 4)


def test_semi_supervised_training_with_empty_images(data, tmp_path):
    """In burn-in, too."""
    lengths = dict(burn_in=1, lambda_bg_warmup=0, train_cfg__max_epochs=2, train_cfg__val_interval=2)
    cfg = load(SEMI, data, tmp_path, train_dataloader__dataset__empty='good.txt', **lengths)
    assert [str(one) for one in check_config(cfg) if 'empty' in one.where] == []
    runner = train(cfg)
    loss_cls, loss_bg = (recorded(runner, f'bg_{name}') for name in ('loss_cls', 'loss_bg'))
    assert len(loss_cls) == 10 and all(loss_cls > 0)
    assert list(loss_bg > 0) == [False] * 5 + [True] * 5
    names = [f'{branch}_loss_{name}' for branch in ('sup', 'unsup') for name in ('cls', 'bbox', 'dfl', 'bg')]
    total = sum(recorded(runner, name)[-1] for name in (*names, 'bg_loss_cls', 'bg_loss_bg'))
    assert recorded(runner, 'loss')[-1] == pytest.approx(total, rel=1e-5)


def test_supervised_training_with_empty_images(data, tmp_path):
    """One line makes the difference."""
    cfg = own_empty(data, tmp_path)
    assert [one for one in check_config(cfg) if one.level == 'error'] == []
    runner = train(cfg)
    assert type(runner.model).__name__ == 'EmptyImagesYOLODetector' and len(runner.train_dataloader) == 2
    assert all(recorded(runner, 'bg_loss_cls') > 0)
    assert list(recorded(runner, 'bg_loss_bg') > 0) == [False] * 2 + [True] * 2
    assert 0 <= runner.message_hub.get_scalar('val/coco/bbox_mAP').current() <= 1


@pytest.mark.parametrize('source, message', [('none.txt', 'none.txt: no such file'), ('labeled.json', 'without boxes')])
def test_check_names_a_bad_source(data, tmp_path, source, message):
    cfg = load(SEMI, data, tmp_path, train_dataloader__dataset__empty=source)
    found = [one for one in check_config(cfg) if one.where == 'train_dataloader.dataset.empty']
    assert [one.level for one in found] == ['error'] and message in found[0].what


def test_check_finds_a_misspelt_weight(data, tmp_path):
    cfg = own_empty(data, tmp_path)
    cfg.model.sup_loss_weights = dict(loss_bgg=0.0)
    assert [one.instead for one in check_config(cfg) if one.where == 'model.sup_loss_weights.loss_bgg'] == [
        'write `loss_bg`'
    ]


def test_check_finds_labeled_images_among_the_empty_ones(data, tmp_path):
    (data / 'both.txt').write_text('good_000.png\nlabeled_001.png')
    cfg = load(SEMI, data, tmp_path, train_dataloader__dataset__empty='both.txt')
    found = [one.what for one in check_config(cfg) if one.where == 'train_dataloader.dataset.empty']
    assert len(found) == 1 and 'learns their objects as background' in found[0]


def test_check_wants_the_branch_in_every_pipeline(data, tmp_path):
    cfg = load(SEMI, data, tmp_path, train_dataloader__dataset__empty='good.txt')
    views = cfg.train_dataloader.dataset.unlabeled.pipeline[-1]
    views.branch_field = ['sup', 'unsup_teacher', 'unsup_student']
    found = [one.what for one in check_config(cfg, data=False) if one.where.endswith('branch_field')]
    assert found == ["it lacks ['bg']"]


@pytest.mark.parametrize('single, said', [('labeled', 'only empty'), ('empty', 'only labeled'), (None, None)])
def test_check_wants_the_mosaics_of_labeled_and_of_empty_images(data, tmp_path, single, said):
    cfg = load('yolov8_semi_bgpenalty.py', data, tmp_path, train_dataloader__dataset__empty='good.txt')
    sets = cfg.train_dataloader.dataset
    if single == 'labeled':
        sets.labeled.pipeline = cfg.single_pipeline
    elif single == 'empty':
        sets.empty_pipeline = cfg.single_empty_pipeline
    found = [one for one in check_config(cfg) if 'are mosaics' in one.what]
    assert [(one.level, one.where) for one in found] == [('warning', 'train_dataloader.dataset.empty_pipeline')] * bool(
        said
    )
    assert not said or said in found[0].what
