"""COCO datasets with mistakes in their json."""

import json

import pytest
from mmyolo.registry import DATASETS

from mmyolo_bgpenalty import CheckedCocoDataset
from tests.helpers.changes import edit
from tests.helpers.spoilt import member, pair


def repeat(name):
    return lambda coco: coco[name].append(dict(coco[name][0]))


MISTAKES = {
    'image twice': (repeat('images'), '`images` has 2 entries with the id 0'),
    'category twice': (repeat('categories'), '`categories` has 2 entries with the id 1'),
    'annotation twice': (repeat('annotations'), '`annotations` has 2 entries with the id 1'),
    'unknown category': (
        lambda coco: [a.update(category_id=7) for a in coco['annotations'][2:4]],
        '`annotations[2].category_id` is 7, which is unknown (and 1 more, at 3)',
    ),
    'unknown image': (
        lambda coco: coco['annotations'][0].update(image_id='0'),
        "`annotations[0].image_id` is '0', which is unknown",
    ),
    'negative size': (
        lambda coco: coco['annotations'][0].update(bbox=[1, 1, -5, 5]),
        '`annotations[0].bbox` is [1, 1, -5, 5]; expected [x, y, width, height], finite in fp32, width and height >= 0',
    ),
    'no number': (
        lambda coco: coco['annotations'][0].update(bbox=[1, 1, float('nan'), 5]),
        '`annotations[0].bbox` is [1, 1, nan, 5]; expected',
    ),
    'infinite': (
        lambda coco: coco['annotations'][0].update(bbox=[1, float('-inf'), 5, 5]),
        '`annotations[0].bbox` is [1, -inf, 5, 5]; expected',
    ),
    'crowd as text': (
        lambda coco: coco['annotations'][0].update(iscrowd='false'),
        "`annotations[0].iscrowd` is 'false'; expected 0 or 1",
    ),
    'no images': (lambda coco: coco.update(images=[], annotations=[]), '`images` is empty'),
}


@pytest.mark.parametrize('name', ['labeled', 'unlabeled'])
@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_set_with_a_mistake_is_not_built(root, mistake, name):
    change, message = MISTAKES[mistake]
    edit(root, name, change)
    file = f'{root}/{name}.json'
    for build in (lambda: pair(root, type='YOLOv5CocoDataset'), lambda: DATASETS.build(member(root, name))):
        with pytest.raises(ValueError) as caught:
            build()
        assert f'{file}: {message}' in str(caught.value)
    with pytest.raises(ValueError, match=f'`{name}` set: {file}: '):
        pair(root)


def test_a_missing_class_that_would_shift_labels_is_refused(root):
    """If the json has no disc, MMDetection would give its label to bar."""

    def drop(coco):
        coco['categories'].pop(1)
        coco['annotations'] = [a for a in coco['annotations'] if a['category_id'] != 2]

    assert len(CheckedCocoDataset(**{k: v for k, v in member(root, 'val').items() if k != 'type'})) == 4
    edit(root, 'val', drop)
    with pytest.raises(ValueError, match=r"'disc', 'bar'\] in .*val.json, but got \['square', 'bar'\]: MMDetection"):
        DATASETS.build(member(root, 'val'))
    # A json without boxes may lack any class. A json with boxes may lack all classes.
    edit(root, 'val', lambda coco: coco['annotations'].clear())
    assert len(DATASETS.build(member(root, 'val'))) == 4
    edit(root, 'unlabeled', lambda coco: [c.update(name=f'{c["id"]}') for c in coco['categories']])
    assert len(pair(root)) == 16


@pytest.mark.parametrize('name', ['labeled', 'unlabeled'])
def test_classes_in_another_order_are_refused(root, name):
    """MMDetection numbers labels in the order of the json, so discs would be learnt as squares."""
    edit(root, name, lambda coco: coco['categories'].insert(0, coco['categories'].pop(1)))
    message = rf"'square', 'disc', 'bar'\] in .*{name}.json, but got \['disc', 'square', 'bar'\]: MMDetection"
    with pytest.raises(ValueError, match=message):
        pair(root, type='YOLOv5CocoDataset')
    with pytest.raises(ValueError, match=message):
        DATASETS.build(member(root, name))
    ordered = DATASETS.build(dict(member(root, name), metainfo=dict(classes=('disc', 'square', 'bar'))))
    coco = json.loads((root / f'{name}.json').read_text())
    first = next(a for a in coco['annotations'] if a['image_id'] == 0)
    assert ordered.get_data_info(0)['instances'][0]['bbox_label'] == [2, 1, 3].index(first['category_id'])
    edit(root, 'unlabeled', lambda coco: coco['annotations'].clear())  # without boxes no label can be wrong
    assert name == 'labeled' or len(pair(root)) == 16


def test_a_filter_that_leaves_nothing_is_named(root):
    with pytest.raises(ValueError, match=r"images in .*labeled.json, but filter_cfg={'min_size': 99} leaves none"):
        DATASETS.build(dict(member(root, 'labeled'), filter_cfg=dict(min_size=99)))


def test_a_json_in_another_encoding_is_read(root):
    """pycocotools reads with the encoding of the locale."""
    text = (root / 'val.json').read_text()
    (root / 'val.json').write_bytes(text.encode('utf-8-sig'))
    assert len(DATASETS.build(member(root, 'val'))) == 4
