"""A file that is no checkpoint is named in one line, with what to do."""

import gzip
import io
import struct
import zipfile

import cv2
import numpy as np
import pytest
import torch

from mmyolo_bgpenalty.engine.checkpoints.checkpoint_files import CheckpointError, read_checkpoint


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name.replace('_', '.'), content)
    return buffer.getvalue()


def scripted():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def picture(suffix):
    return cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()


HEADER = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 6534387\n'
KINDS = {
    'empty': (lambda: b'', 'it is empty. Download or copy it again'),
    'Git LFS': (lambda: POINTER, 'it is only a pointer of Git LFS, not the file itself. Run `git lfs pull`'),
    'web page': (lambda: b'\n<!DOCTYPE html>\n<html>', 'it is a web page .HTML.. The download went wrong'),
    'old web page': (lambda: b'<html lang="en">', 'it is a web page'),
    'safetensors': (lambda: struct.pack('<Q', len(HEADER)) + HEADER + bytes(4), 'it is a safetensors file'),
    'ONNX': (lambda: b'\x08\x09\x12\x07pytorch\x1a\x05' + bytes(99), 'it is an ONNX file, which cannot be trained'),
    'TorchScript': (scripted, 'it is a TorchScript model, which cannot be trained. Give the checkpoint that'),
    'gzip': (lambda: gzip.compress(b'x' * 99), 'it is a compressed archive. Unpack it, and give the checkpoint'),
    'zip': (lambda: zipped(notes_txt='x'), 'it is a zip archive that torch did not write. Give a checkpoint of MMYOLO'),
    'zip of weights': (lambda: zipped(a_txt='', best_pt='x'), 'torch did not write. Unpack it, and give best.pt in it'),
    'HDF5': (lambda: b'\x89HDF\r\n\x1a\n' + bytes(99), 'it is an HDF5 file'),
    'PNG': (lambda: picture('.png'), 'it is a picture. Give a checkpoint of MMYOLO or of this package'),
    'JPEG': (lambda: picture('.jpg'), 'it is a picture'),
    'text': (
        lambda: '# für λ\nmodel = 1\n'.encode(),
        "it is a text file, which starts with '# für λ'",
    ),
    'noise': (lambda: bytes(range(255, 0, -1)), 'it is not a torch file'),
}


@pytest.mark.parametrize('name', KINDS)
def test_a_file_of_another_kind_is_named(name, tmp_path):
    content, message = KINDS[name]
    file = tmp_path / 'weights.pth'
    file.write_bytes(content())
    with pytest.raises(CheckpointError, match=f'^{file}: cannot be read as a checkpoint: .*{message}') as error:
        read_checkpoint(str(file))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('zipped', [True, False])
def test_files_of_torch_are_read(zipped, tmp_path):
    file = tmp_path / 'weights.pth'
    torch.save(dict(weight=torch.ones(2)), file, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(str(file))['weight'].tolist() == [1, 1]
