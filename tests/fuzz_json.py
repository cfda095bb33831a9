"""Fuzz the json readers by coverage: ``python tests/fuzz_json.py -max_total_time=60``, with atheris installed.

Nothing but a ValueError that names the file may come out, and what is accepted is json again. It needs neither torch
nor MMDetection; test_fuzz_json.py goes on from here to what reads the sets.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent
SEEDS = [
    b'{"images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}], "categories": [{"id": 1, "name": "a"}], '
    b'"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1.5], "area": 1.5, "iscrowd": 0}]}',
    b'{"images": [], "categories": [], "annotations": null}',
    '{"images": [{"id": "ä"}]}'.encode('utf-16'),
]

with atheris.instrument_imports():
    spec = importlib.util.spec_from_file_location('files', ROOT / 'mmyolo_bgpenalty/files.py')
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
atheris.instrument_func(files.read_coco)
FILE = Path(tempfile.mkdtemp(), 'set.json')


def one_input(content: bytes) -> None:
    FILE.write_bytes(content)
    for training in (False, True):
        try:
            accepted = files.read_coco(FILE, training=training)
        except ValueError as error:
            assert str(error).startswith(f'{FILE}: ')
        else:
            assert accepted['images'] and accepted['categories']
            json.dumps(accepted)


if __name__ == '__main__':
    corpus = Path(tempfile.mkdtemp())
    for place, seed in enumerate(SEEDS):
        (corpus / str(place)).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[1:]], one_input)
    atheris.Fuzz()
