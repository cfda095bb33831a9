"""Json with mistakes, for fuzz_json.py."""

import copy
import json
import math
from collections.abc import Callable

NAMES = ('square', 'disc', 'bar')
BASE = dict(
    info=dict(year=2024, license=None),
    images=[dict(id=i, file_name=f'{i}.png', width=80, height=64) for i in range(5)],
    categories=[dict(id=i + 1, name=name, supercategory='') for i, name in enumerate(NAMES)],
    annotations=[
        dict(
            id=i,
            image_id=i % 4,
            category_id=1 + i % 3,
            bbox=[4 * i, 3, 20, 10 + i],
            area=20 * (10 + i),
            iscrowd=int(i == 5),
            segmentation=[[0, 0, 9, 0, 9, 9]],
        )
        for i in range(7)
    ],
)
SEEDS = [
    b'{"images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}], "categories": [{"id": 1, "name": "a"}], '
    b'"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1.5], "area": 1.5, "iscrowd": 0}]}',
    b'{"images": [], "categories": [], "annotations": null}',
    '{"images": [{"id": "ä"}]}'.encode('utf-16'),
]
ODD = (
    *(None, True, False, 0, 1, 2, -1, -0.0, 0.5, 1.0, 79, 1e-320, 1e-9, 1e30, 1e39, 1e308, -1e308, 2**31, 2**63, 2**64),
    *(10**308, 10**400, -(10**400), math.nan, math.inf, -math.inf),
    *('', '0', '1', 'square', 'nan', 'a\0b', '\ud800', '\udcff', '../../x', '/', '.', 'ä\u202e\U0001f600', 'x' * 300),
    *([], [0], [1, 2, 3], [0, 0, 9, 9], [1e308] * 4, [math.nan] * 4, [-1e308, 0, 1e308, 9], [0, 0, 10**308, 10**308]),
    *({}, {'id': 1}, {'counts': 'x', 'size': [1, 1]}),
)
KEYS = ('id', 'bbox', 'ignore', 'iscrowd', 'segmentation', 'img_id', 'instances', '', 'ä', '\ud800', '__class__')
TEXTS = (b'1e999', b'-', b'NaN', b'-Infinity', b'9' * 5000, b'"\\ud800"', b'\\', b'\0', b'[' * 2000, b'{"id":' * 99)


def mutated(pick: Callable[[int], int], base=BASE) -> bytes:
    """The json of ``base`` with mistakes; ``pick(n)`` chooses from 0 to n - 1."""
    root = dict(set=copy.deepcopy(base))
    for _ in range(pick(4)):
        _change(root, pick)
    try:
        text = json.dumps(root['set'], ensure_ascii=pick(2) == 0)
    except RecursionError:
        text = '[' * 50_000
    encoding = ('utf-8', 'utf-8', 'utf-8', 'utf-8-sig', 'utf-16', 'latin-1')[pick(6)]
    content = text.encode(encoding, 'surrogatepass' if encoding.startswith('utf') else 'replace')
    if pick(8) == 0:
        place, odd = pick(len(content) + 1), TEXTS[pick(len(TEXTS))]
        content = (
            content[:place],
            content[:place] + content[place + 1 :],
            content[:place] + odd + content[place:],
            content[:place] + odd + content[place + len(odd) :],
            content[:place] + bytes([pick(256)]) + content[place + 1 :],
        )[pick(5)]
    return content


def _change(root: dict, pick: Callable[[int], int]) -> None:
    node, key = root, 'set'
    for _ in range(pick(5)):
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        node, key = inner, places[pick(len(places))]
    kind = pick(9)
    if kind <= 2:
        node[key] = copy.deepcopy(ODD[pick(len(ODD))])
    elif kind == 3 and node is not root:
        del node[key]
    elif kind == 4 and isinstance(node, list):
        node.insert(pick(len(node) + 1), node[key])
    elif kind == 5 and isinstance(node, list):
        other = pick(len(node))
        node[key], node[other] = node[other], node[key]
    elif kind == 6 and isinstance(node, dict):
        node[KEYS[pick(len(KEYS))]] = copy.deepcopy(ODD[pick(len(ODD))])
    elif kind == 7:
        for _ in range((1, 50, 300, 700, 950)[pick(5)]):
            node[key] = [node[key]]
    elif isinstance(node, list):
        node[key] = node[pick(len(node))]
