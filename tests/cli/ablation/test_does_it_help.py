"""The variants of an ablation without --variants."""

import copy
import json
from functools import partial

import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from mmyolo.registry import DATA_SAMPLERS, DATASETS

from mmyolo_bgpenalty.cli.ablation import does_it_help as module
from mmyolo_bgpenalty.cli.ablation.does_it_help import does_it_help
from mmyolo_bgpenalty.datasets.solar_panels.generate import generate
from mmyolo_bgpenalty.utils.files import read_json, write_whole
from mmyolo_bgpenalty.utils.shipped_configs import config
from tests.helpers.tiny import CONFIGS, SUPERVISED, load, make_images, make_set

CONFIG = 'yolov8_semi_bgpenalty.py'
LABELED, UNLABELED = 'train_dataloader.dataset.labeled', 'train_dataloader.dataset.unlabeled'


def built(cfg, overrides):
    """The training set of a variant, and its number of iterations."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(overrides)
    init_default_scope('mmyolo')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    given = dict(sampler=DefaultSampler(dataset), batch_size=cfg.train_dataloader.batch_size)
    batches = DATA_SAMPLERS.build(cfg.train_dataloader.batch_sampler, default_args=given)
    return dataset, len(batches) * cfg.train_cfg.max_epochs


@pytest.mark.parametrize('epoch_of, iterations', [('unlabeled', 5 * 20), ('labeled', 3 * 20)])
def test_all_variants_have_the_same_number_of_iterations(data, tmp_path, epoch_of, iterations):
    cfg = load(CONFIG, data, tmp_path, train_dataloader__batch_sampler__epoch_of=epoch_of)
    found = does_it_help(cfg, tmp_path)
    names = ['labels only', 'unlabeled pictures', 'unlabeled pictures and penalty', 'all labels']
    assert list(found.variants) == names
    assert [question[1:] for question in found.questions] == [
        (names[1], names[0]),
        (names[2], names[1]),
        (names[2], names[0]),
        (names[3], names[0]),
    ]
    assert found.variants[names[1]] == {'lambda_bg': 0.0} and found.variants[names[2]] == {}
    for path, content in found.files.items():
        write_whole(path, content)
    for name, overrides in found.variants.items():
        dataset, length = built(cfg, overrides)
        assert length == iterations, name
        labeled = [dataset.datasets[0].get_data_info(i) for i in range(len(dataset.datasets[0]))]
        true = [read_json(data / f'{part}.json') for part in ('labeled', 'unlabeled')[: 1 + (name == 'all labels')]]
        assert len(labeled) == sum(len(part['images']) for part in true)
        assert sum(len(info['instances']) for info in labeled) == sum(len(part['annotations']) for part in true)


def test_the_file_of_all_labels_merges_folders_and_numbers_of_classes(tmp_path):
    """The unlabeled pictures lie elsewhere. Their file has other ids and one class more. One picture is in both."""
    root, other = make_set(tmp_path / 'set'), make_set(tmp_path / 'other')
    coco = read_json(other / 'unlabeled.json')
    numbers = {1: 30, 2: 10, 3: 20}
    coco['categories'] = [dict(id=numbers[c['id']], name=c['name']) for c in coco['categories']]
    coco['categories'].append(dict(id=40, name='other'))
    for box in coco['annotations']:
        box['category_id'] = numbers[box['category_id']]
    coco['annotations'][0]['category_id'] = 40
    coco['images'][-1]['file_name'] = '../../set/images/labeled_000.png'
    ignored = [box for box in coco['annotations'] if box['image_id'] == coco['images'][-1]['id']]
    (other / 'unlabeled.json').write_text(json.dumps(coco))
    cfg = load(CONFIG, root, tmp_path)
    cfg.merge_from_dict({f'{UNLABELED}.data_root': f'{other}/'})
    found = does_it_help(cfg, tmp_path / 'work')
    ((path, content),) = found.files.items()
    write_whole(path, content)
    dataset = built(cfg, found.variants['all labels'])[0].datasets[0]
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert len(infos) == 6 + 10 - 1
    boxes = {
        (info['img_path'].rpartition('/')[2], *box['bbox'], box['bbox_label'])
        for info in infos
        for box in info['instances']
    }
    expected = set()
    for coco in (read_json(root / 'labeled.json'), read_json(root / 'unlabeled.json')):
        names = {image['id']: image['file_name'] for image in coco['images']}
        for box in coco['annotations']:
            x, y, w, h = box['bbox']
            expected.add((names[box['image_id']], x, y, x + w, y + h, box['category_id'] - 1))
    assert len(expected - boxes) == 1 + len(ignored) and not boxes - expected
    assert all((tmp_path / 'set/images' / image['file_name']).exists() for image in json.loads(content)['images'])


@pytest.mark.parametrize('kind', ['no boxes', 'folder', 'part'])
def test_without_all_labels_there_is_no_such_variant(tmp_path, kind):
    root = make_set(tmp_path / 'set')
    cfg = load(CONFIG, root, tmp_path)
    if kind == 'no boxes':
        (root / 'unlabeled.json').write_text(json.dumps(dict(read_json(root / 'unlabeled.json'), annotations=[])))
    elif kind == 'folder':
        cfg.merge_from_dict({UNLABELED: dict(_delete_=True, type='ImageFolderDataset', data_root=str(root))})
        cfg.train_dataloader.dataset.unlabeled.pop('ann_file')
    else:
        cfg.merge_from_dict({f'{LABELED}.indices': 3})
    found = does_it_help(cfg, tmp_path)
    assert list(found.variants) == ['labels only', 'unlabeled pictures', 'unlabeled pictures and penalty']
    assert not found.files and 'all labels' in found.note


def test_a_json_with_a_mistake_is_refused_before_anything_trains(tmp_path):
    root = make_set(tmp_path / 'set')
    (root / 'unlabeled.json').write_text('{')
    with pytest.raises(ValueError, match='unlabeled.json: is not valid json'):
        does_it_help(load(CONFIG, root, tmp_path), tmp_path)


def test_without_a_penalty_and_without_a_teacher(data, tmp_path):
    found = does_it_help(load(CONFIG, data, tmp_path, lambda_bg=0.0), tmp_path)
    assert list(found.variants) == ['labels only', 'unlabeled pictures', 'all labels']
    assert found.variants['unlabeled pictures'] == {} and len(found.questions) == 2
    found = does_it_help(load(SUPERVISED, data, tmp_path), tmp_path)
    assert found.variants == {'labels only': {'lambda_bg': 0.0}, 'penalty': {}}
    with pytest.raises(ValueError, match='none of these: write variants into a file'):
        does_it_help(load(SUPERVISED, data, tmp_path, lambda_bg=0.0), tmp_path)


def test_good_parts_are_added_first(tmp_path):
    root = make_set(tmp_path / 'set')
    make_images(root, 'good', 4, seed=7)
    (root / 'good.txt').write_text('good_000.png\ngood_001.png')
    cfg = load(CONFIG, root, tmp_path, train_dataloader__dataset__empty='good.txt')
    found = does_it_help(cfg, tmp_path)
    with_good = 'unlabeled pictures and good parts'
    assert list(found.variants) == ['labels only', 'good parts', with_good, f'{with_good} and penalty', 'all labels']
    assert [question.title for question in found.questions] == [
        'Good parts',
        'Unlabeled pictures',
        'The penalty',
        'All together',
        'All labels',
    ]
    for path, content in found.files.items():
        write_whole(path, content)
    sources = {name: built(cfg, overrides)[0].sources for name, overrides in found.variants.items()}
    assert {name for name, listed in sources.items() if 'empty' not in listed} == {'labels only', 'all labels'}
    supervised = Config.fromfile(
        config('yolov8_bgpenalty_own_empty.py', data_root=f'{root}/', empty='good.txt', labeled_ann_file='labeled.json')
    )
    assert does_it_help(supervised, tmp_path).variants == {
        'labels only': {'lambda_bg': 0.0, 'train_dataloader.dataset.empty': None},
        'good parts': {'lambda_bg': 0.0},
        'good parts and penalty': {},
    }


def test_the_solar_set_is_made_to_find_its_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'generate', partial(generate, num_train=20, num_val=1, progress=False))
    cfg = Config.fromfile(CONFIGS / CONFIG)
    cfg.merge_from_dict({f'{part}.data_root': str(tmp_path / 'solar') for part in (LABELED, UNLABELED)})
    found = does_it_help(cfg, tmp_path)
    assert 'all labels' in found.variants
    assert len(json.loads(next(iter(found.files.values())))['images']) == 20
