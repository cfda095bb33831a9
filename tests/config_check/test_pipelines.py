import pytest
from mmengine.config import ConfigDict

from mmyolo_bgpenalty.config_check.check import check_config
from tests.helpers.changes import DELETED, MULTI_SOURCE, Before, change
from tests.helpers.tiny import INPUT

LABELED, UNLABELED = (f'train_dataloader.dataset.{name}.pipeline' for name in ('labeled', 'unlabeled'))
TEACHER_VIEW, STRONG = f'{UNLABELED}.3.unsup_teacher', f'{UNLABELED}.3.unsup_student.0'
SINGLE = 'train_dataloader.dataset.pipeline'  # of the supervised config
LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
KEYS = ('ori_shape', 'img_shape', 'homography_matrix')
PACK = dict(type='mmdet.PackDetInputs', meta_keys=(*KEYS, 'mosaic_tiles'))
MOSAIC = dict(type='RecordedMosaic', img_scale=INPUT, pre_transform=LOAD)
LETTERBOX = dict(type='LetterResize', scale=INPUT)
ERASING = dict(type='mmdet.RandomErasing', n_patches=(1, 5), ratio=(0, 0.2))
SWITCH = dict(type='mmdet.PipelineSwitchHook', switch_epoch=5)
PADDING = 'padding counts as background'
E, W = 'error', 'warning'


def strong(step):
    return {STRONG: Before(step)}


def concat(cfg):
    """Join the two sets with ConcatDataset, as MMDetection's configs do, and add a PipelineSwitchHook."""
    members = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[members.labeled, members.unlabeled])
    cfg.custom_hooks = [ConfigDict(SWITCH, switch_pipeline=members.labeled.pipeline)]


MISTAKES = {
    # Branches
    'no branches': ({f'{LABELED}.6': PACK}, E, LABELED, 'no branch sup'),
    'weak view missing': ({TEACHER_VIEW: DELETED}, E, UNLABELED, 'no branch unsup_teacher'),
    'branch_field': (
        {f'{LABELED}.6.branch_field': ['sup']},
        *(E, f'{LABELED}.6.branch_field', "['unsup_teacher', 'unsup_student']"),
    ),
    'switch on a ConcatDataset': (concat, E, 'custom_hooks.0', 'no effect on its members'),
    'switch to a pipeline without branch': (
        {'custom_hooks': [dict(SWITCH, switch_pipeline=[dict(type='LoadImageFromFile')])]},
        *(E, 'custom_hooks.0.switch_pipeline', 'no branch `sup`'),
    ),
    # Geometry
    'letterbox in a view': (strong(LETTERBOX), E, f'{STRONG}.type', 'pseudo-boxes land'),
    'recorded mosaic in a view': (strong(MOSAIC), E, f'{STRONG}.type', 'within one view'),
    'MixUp before the views': (
        {f'{UNLABELED}.3': Before(dict(type='YOLOv5MixUp', pre_transform=LOAD[:1]))},
        *(W, f'{UNLABELED}.3.type', PADDING),
    ),
    "erasing in the teacher's view": (
        {f'{TEACHER_VIEW}.0': Before(ERASING)},
        *(W, f'{TEACHER_VIEW}.0.type', 'get no pseudo-box'),
    ),
    'geometry among random augmentations': (
        strong(
            dict(
                type='mmdet.RandAugment',
                aug_space=[[dict(type='mmdet.Color')], [dict(type='mmdet.Rotate')], [dict(type='mmdet.RandomShift')]],
            )
        ),
        *(E, f'{STRONG}.aug_space.2.0.type', 'RandomShift does not record'),
    ),
    'albumentations in a view': (
        strong(dict(type='mmdet.Albu', transforms=[dict(type='Blur'), dict(type='ShiftScaleRotate')])),
        *(E, f'{STRONG}.transforms.1', 'ShiftScaleRotate'),
    ),
    'unknown geometry': (strong(dict(type='MyPerspective')), W, f'{STRONG}.type', 'may not record'),
    'letterbox before the views': ({f'{UNLABELED}.2.type': 'LetterResize'}, W, f'{UNLABELED}.2.type', PADDING),
    'weak view without its matrix': (
        {f'{TEACHER_VIEW}.1.meta_keys': ('img_id', 'img_shape')},
        *(E, f'{TEACHER_VIEW}.1.meta_keys', 'cannot be projected'),
    ),
    'labeled images without their matrix': (
        {f'{LABELED}.6.sup.0.meta_keys': DELETED},
        *(W, f'{LABELED}.6.sup.0.meta_keys', PADDING),
    ),
    # Mosaics
    'mosaic whose images nothing loads': (
        {f'{LABELED}.2': Before(dict(type='RecordedMosaic', img_scale=INPUT))},
        *(E, f'{LABELED}.2', 'no `pre_transform` loads its other images'),
    ),
    'mosaic of a set that hands out no images': (
        {f'{UNLABELED}.2': Before(MOSAIC), 'train_dataloader.dataset.unlabeled.type': 'mmdet.CocoDataset'},
        *(
            E,
            'train_dataloader.dataset.unlabeled.type',
            'RecordedMosaic fails, because CocoDataset gives it no other images',
        ),
    ),
    'mosaic of cached images': (
        {f'{UNLABELED}.2': Before(dict(MOSAIC, use_cached=True))},
        *(W, f'{UNLABELED}.2.use_cached', 'a resumed run sees other images'),
    ),
    'mosaic without its tiles': (
        {f'{STRONG[:-2]}.3.meta_keys': KEYS, f'{UNLABELED}.2': Before(MOSAIC)},
        *(W, f'{UNLABELED}.4.unsup_student.3.meta_keys', 'no `mosaic_tiles`'),
    ),
    "MMYOLO's LoadAnnotations": ({f'{LABELED}.1.type': 'LoadAnnotations'}, W, f'{LABELED}.1.type', 'drops crowd boxes'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_in_the_semi_config(cfg, mistake, only_finding):
    changes, *expected = MISTAKES[mistake]
    change(cfg, changes)
    only_finding(check_config(cfg), *expected)


@pytest.mark.parametrize(
    'path, value, what',
    [
        (f'{SINGLE}.2.type', 'Mosaic', PADDING),
        (f'{SINGLE}.6.meta_keys', KEYS[:2], 'no `homography_matrix` and `mosaic_tiles`'),
        (f'{SINGLE}.6.meta_keys', KEYS, 'no `mosaic_tiles`'),
    ],
)
def test_padding_of_the_supervised_config(supervised, path, value, what, only_finding):
    change(supervised, {path: value})
    only_finding(check_config(supervised), W, path, what)


def test_letterboxed_tiles_of_a_mosaic(cfg):
    """The mosaic is an error, since it moves the view. Its letterbox is a warning, since it adds padding to tiles."""
    change(cfg, strong(dict(type='Mosaic', img_scale=INPUT, pre_transform=[LETTERBOX])))
    found = [(finding.level, finding.where) for finding in check_config(cfg)]
    assert found == [(E, f'{STRONG}.type'), (W, f'{STRONG}.pre_transform.0.type')]


@pytest.mark.parametrize(
    'changes',
    [
        strong(ERASING),
        {f'{LABELED}.4': Before(ERASING)},  # MMDetection drops the boxes of erased objects
        strong(dict(type='mmdet.RandAugment', aug_space=[[dict(type='mmdet.Rotate')], [dict(type='mmdet.Color')]])),
        {f'{LABELED}.2': Before(MOSAIC), f'{UNLABELED}.2': Before(MOSAIC)},
    ],
)
def test_pipelines_without_mistakes(cfg, changes):
    change(cfg, changes)
    assert check_config(cfg) == []


def test_a_sampler_with_another_batch_size(cfg, only_finding):
    change(cfg, MULTI_SOURCE | {'train_dataloader.batch_size': 5})
    only_finding(check_config(cfg), E, 'train_dataloader.sampler.batch_size', "4, but the loader's batch_size is 5")


def test_without_batch_sampler_the_share_of_labeled_images_is_left_to_chance(cfg, only_finding):
    change(cfg, {'train_dataloader.batch_sampler': DELETED})
    only_finding(check_config(cfg), E, 'train_dataloader.batch_sampler', 'by chance')


@pytest.mark.parametrize(
    'path, kind',
    [('train_dataloader.collate_fn', 'yolov5_collate'), ('model.data_preprocessor', 'YOLOv5DetDataPreprocessor')],
)
def test_batches_that_do_not_state_where_padding_is(supervised, path, kind, only_finding):
    change(supervised, {f'{path}.type': kind})
    only_finding(check_config(supervised), W, 'train_dataloader.collate_fn', 'are penalised')
