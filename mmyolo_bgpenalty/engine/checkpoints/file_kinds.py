"""Recognise files that are no torch checkpoint by their first bytes. Nothing in them is executed."""

import os
import re
import zipfile

import cv2

EXPECTED = 'Give a checkpoint of MMYOLO or of this package (.pth), or a YOLOv8 detector of Ultralytics (.pt)'
AGAIN = 'Download or copy it again'
NOT_IT = 'The download went wrong: get the file itself'
# The first bytes of a file, what it is, and what to do.
HEADS = [
    (rb'$', 'it is empty', AGAIN),
    (rb'version https://git-lfs', 'it is only a pointer of Git LFS, not the file itself', 'Run `git lfs pull`'),
    (rb'(?i)\s*<(!doctype html|html)', 'it is a web page (HTML)', NOT_IT),
    (rb'.{7}\0\{\s*"', 'it is a safetensors file', EXPECTED),
    (rb'\x08.[\x12:]', 'it is an ONNX file, which cannot be trained', 'Give the checkpoint that it was exported from'),
    (
        rb'\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ',
        'it is a compressed archive',
        'Unpack it, and give the checkpoint in it',
    ),
    (rb'\x89HDF', 'it is an HDF5 file, perhaps of Keras', EXPECTED),
]


class ForeignFileError(ValueError):
    """A file is no checkpoint that MMEngine can load. The message says what the file is and what to do."""


class BrokenFileError(ForeignFileError):
    """A file is empty, damaged or a web page. A new download may give the right file."""


def check_kind(file: str) -> None:
    """Raise a ForeignFileError if a file is of a known kind that is no torch checkpoint.

    Raises:
        OSError: the file cannot be read.
    """
    with open(file, 'rb') as opened:
        head = opened.read(512)
    for pattern, what, instead in HEADS:
        if re.match(pattern, head, re.DOTALL):
            kind = BrokenFileError if instead in (AGAIN, NOT_IT) else ForeignFileError
            raise kind(f'{what}. {instead}')
    if head.startswith(b'PK'):
        _check_zip(file)
    elif cv2.haveImageReader(file):
        raise ForeignFileError(f'it is a picture. {EXPECTED}')
    elif not re.search(rb'[\0-\x08\x0e-\x1f\x7f]', head):  # no control characters
        line = head[:40].decode(errors='replace').strip().partition('\n')[0]
        raise ForeignFileError(f'it is a text file, which starts with {line!r}. {EXPECTED}')


def torch_pickle(file: str) -> bytes:
    """The pickle in a torch file. It is empty if the file has torch's old format, which is no zip archive."""
    if not zipfile.is_zipfile(file):
        return b''
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith('data.pkl')))


def _check_zip(file: str) -> None:
    if not zipfile.is_zipfile(file):
        raise BrokenFileError(f'its end is missing. {AGAIN}')
    with zipfile.ZipFile(file) as archive:
        names, damaged = archive.namelist(), archive.testzip()
    if damaged:
        raise BrokenFileError(f'it is damaged: {damaged} in it does not match its checksum. {AGAIN}')
    if any(name.endswith('/constants.pkl') for name in names):
        raise ForeignFileError(
            'it is a TorchScript model, which cannot be trained. Give the checkpoint that it was exported from'
        )
    if not any(name.endswith('data.pkl') for name in names):
        weights = [name for name in names if os.path.splitext(name)[1] in ('.pt', '.pth')]
        inside = f'Unpack it, and give {weights[0]} in it' if weights else EXPECTED
        raise ForeignFileError(f'it is a zip archive that torch did not write. {inside}')
