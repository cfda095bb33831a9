import json
import shutil

import pytest
from mmdet.evaluation import CocoMetric

from mmyolo_bgpenalty.config_check.check import check_config
from tests.helpers.changes import DELETED, change, edit
from tests.helpers.tiny import CLASSES

HEAD, ASSIGNER = 'model.detector.bbox_head.head_module.num_classes', 'model.detector.train_cfg.assigner.num_classes'
BEST, VAL = 'default_hooks.checkpoint.save_best', 'val_dataloader.dataset'
E, W = 'error', 'warning'
COCO = dict(type='mmdet.CocoMetric')
MISTAKES = {
    'head too small': ({HEAD: 2, ASSIGNER: 2}, E, HEAD, 'the head has 2 classes'),
    'head too large': ({HEAD: 80, ASSIGNER: 80}, E, HEAD, 'has 3: square, disc, bar. The first prediction of another'),
    'head too large, no validation': (
        {HEAD: 80, ASSIGNER: 80, 'val_dataloader': None, 'val_evaluator': None, 'val_cfg': None},
        *(W, HEAD, 'the head has 80 classes'),
    ),
    'assigner of another size': ({ASSIGNER: 80}, E, ASSIGNER, '80, but the head has 3'),
    'classes in another order': (
        {f'{VAL}.metainfo.classes': ('square', 'bar', 'disc')},
        *(
            E,
            f'{VAL}.metainfo.classes',
            'label 1 and later are bar, disc, but train_dataloader.dataset.labeled has disc,',
        ),
    ),
    'save_best without teacher/': ({BEST: ['auto', 'coco/bbox_mAP_50']}, E, BEST, 'no evaluator reports'),
    'save_best misspelt': ({BEST: 'teacher/coco/mAP50'}, E, BEST, '`teacher/coco/mAP50`'),
    'meta keys of validation': (
        {f'{VAL}.pipeline.3.meta_keys': ('img_id', 'ori_shape', 'pad_param')},
        *(E, f'{VAL}.pipeline.3.meta_keys', 'no `scale_factor`'),
    ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_in_validation(cfg, mistake, only_finding):
    changes, *expected = MISTAKES[mistake]
    change(cfg, changes)
    only_finding(check_config(cfg), *expected)


def test_a_teacher_student_val_loop_needs_a_teacher(supervised, only_finding):
    change(supervised, {'val_cfg.type': 'mmdet.TeacherStudentValLoop', BEST: DELETED})
    only_finding(check_config(supervised), E, 'val_cfg.type', 'with a teacher')


@pytest.mark.parametrize(
    'evaluator, key, known',
    [
        (dict(type='mmdet.CocoMetric'), 'student/coco/bbox_mAP', True),
        (dict(type='mmdet.CocoMetric'), 'teacher/coco/bbox_mAP50', False),
        (dict(type='mmdet.CocoMetric', prefix='mine'), 'teacher/mine/anything', True),
        (dict(type='mmdet.CocoMetric', prefix='mine'), 'teacher/coco/bbox_mAP', False),
        (dict(type='MyMetric'), 'teacher/mine', True),
        (dict(type='MyMetric'), 'mine', False),
    ],
)
def test_save_best(cfg, evaluator, key, known):
    cfg.val_evaluator, cfg.default_hooks.checkpoint.save_best = evaluator, key
    assert (check_config(cfg, data=False) == []) == known


def test_an_evaluator_that_reads_another_file(cfg, data, tmp_path, only_finding):
    ours = str(data / 'val.json')
    cfg.val_evaluator.ann_file = shutil.copy(ours, tmp_path / 'same.json')
    assert check_config(cfg) == []
    cfg.val_evaluator.ann_file = str(data / 'labeled.json')
    what = f'the dataset reads {ours}, which has other images'
    only_finding(check_config(cfg), E, 'val_evaluator.ann_file', what)


def test_other_images_with_the_same_ids(cfg, data, tmp_path, only_finding):
    shutil.copytree(data, tmp_path / 'set')
    cfg.val_evaluator.ann_file = str(tmp_path / 'set' / 'val.json')
    edit(tmp_path / 'set', 'val', lambda coco: [one.update(file_name=one['file_name'][:-3]) for one in coco['images']])
    assert check_config(cfg) == []  # only the format of the files differs
    edit(tmp_path / 'set', 'val', lambda coco: [image.update(file_name=f'b{image["id"]}') for image in coco['images']])
    only_finding(check_config(cfg), E, 'val_evaluator.ann_file', 'which has other images')


def test_two_validation_sets(cfg, data, tmp_path):
    """One evaluator file has the images of one set, or of both. The ids of both must differ."""
    root = shutil.copytree(data, tmp_path / 'set')
    for name in ('val', 'labeled'):
        shutil.copy(root / f'{name}.json', root / f'{name}_again.json')
    one = dict(cfg.val_dataloader.dataset, data_root=f'{root}/', ann_file='val_again.json')
    other = dict(one, ann_file='labeled_again.json')
    cfg.train_dataloader.dataset.unlabeled.data_root = f'{root}/'
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, other])
    cfg.test_dataloader = cfg.val_dataloader
    evaluator = ('error', 'val_evaluator.ann_file')
    errors = [finding[:2] for finding in check_config(cfg) if finding.level == 'error']
    assert errors == [('error', 'val_dataloader.dataset'), evaluator]

    def shift(coco):
        for image in coco['images']:
            image['id'] += 100
        for annotation in coco['annotations']:
            annotation['image_id'] += 100

    edit(root, 'labeled_again', shift)
    errors = [finding[:2] for finding in check_config(cfg) if finding.level == 'error']
    assert errors == [evaluator]
    first, second = (json.loads((root / f'{name}_again.json').read_text()) for name in ('val', 'labeled'))
    for key in ('images', 'annotations'):
        first[key] += [dict(entry, id=entry['id'] + 100 * (key == 'annotations')) for entry in second[key]]
    (root / 'both.json').write_text(json.dumps(first))
    cfg.val_evaluator.ann_file = str(root / 'both.json')
    assert [finding for finding in check_config(cfg) if finding.level == 'error'] == []


@pytest.mark.parametrize(
    'evaluator',
    [
        dict(type='mmdet.VOCMetric'),
        dict(type='mmdet.MultiDatasetsEvaluator', metrics=[COCO, COCO], dataset_prefixes=['a', 'b']),
    ],
)
def test_evaluators_that_do_not_join_sets_by_ids(cfg, evaluator):
    one = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, dict(one, ann_file='labeled.json')])
    cfg.val_evaluator, cfg.test_dataloader = evaluator, cfg.val_dataloader
    assert check_config(cfg, data=False) == []


class OwnMetric(CocoMetric):
    pass


@pytest.mark.parametrize('kind', ['mmdet.CocoMetric', OwnMetric])
@pytest.mark.parametrize(
    'values, level, harm',
    [
        ([dict(id=0)], W, 'is lost'),
        ([dict(id=0.5)], W, 'is lost'),
        ([dict(id='a')], E, 'cannot be evaluated'),
        ([dict(id=0), dict(iscrowd=None)], E, 'cannot be evaluated'),
    ],
)
def test_annotations_that_cocometric_of_mmdetection_cannot_read(
    cfg, data, tmp_path, kind, values, level, harm, only_finding
):
    def spoil(coco):
        coco['annotations'] = [one | change for one, change in zip(coco['annotations'], values)]

    root = shutil.copytree(data, tmp_path / 'set')
    edit(root, 'val', spoil)
    file = str(root / 'val.json')
    cfg.val_dataloader.dataset.ann_file = cfg.val_evaluator.ann_file = file
    assert check_config(cfg) == []
    cfg.val_evaluator = dict(type=kind, ann_file=file)
    only_finding(check_config(cfg), level, 'val_evaluator.type', f'{harm}: CocoMetric needs `iscrowd`')


@pytest.mark.parametrize('path', ['train_dataloader.dataset.labeled', 'val_dataloader.dataset'])
def test_a_text_in_place_of_class_names(cfg, path):
    """``classes=('square')`` is a text, because the comma is missing. MMEngine would take its letters as classes."""
    change(cfg, {f'{path}.metainfo': dict(classes='square')})
    found = [finding for finding in check_config(cfg) if 'letters' in finding.what]
    expected = [('error', f'{path}.metainfo.classes', "write ('square',), with the comma")]
    assert [(finding.level, finding.where, finding.instead) for finding in found] == expected


def test_a_file_of_class_names(cfg, tmp_path):
    (tmp_path / 'classes.txt').write_text('\n'.join(CLASSES))
    for file in (tmp_path / 'classes.txt', 'https://localhost/classes.txt'):
        change(cfg, {'train_dataloader.dataset.labeled.metainfo.classes': str(file)})
        assert check_config(cfg) == []
