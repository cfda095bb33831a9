import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mmyolo_bgpenalty.utils.image_files import image_fault, image_size


@pytest.fixture(scope='module')
def jpegs():
    """A JPEG, a progressive one with restart markers, and one with a preview before the picture."""
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8), (200, 160))

    def encode(picture, *options):
        return bytes(cv2.imencode('.jpg', picture, list(options))[1])

    plain, preview = encode(picture), encode(picture[:32, :40])
    progressive = encode(picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
    header = b'\xff\xd8\xff\xe1' + (len(preview) + 2).to_bytes(2, 'big')
    return [plain, progressive, header + preview + plain[2:]]


def test_truncated_jpegs(jpegs, tmp_path):
    file = tmp_path / 'a.jpg'
    for content in jpegs:
        for behind in (b'', b'\0\0\n', b'\xff\xda\xff\xc0 a film' * 99, content[:3000]):
            file.write_bytes(content + behind)
            assert image_fault(file) == ''
        for length in {len(content) - 1, len(content) - 2, *np.linspace(2, len(content) - 3, 60).astype(int).tolist()}:
            file.write_bytes(content[:length])
            assert image_fault(file) == 'truncated JPEG', length
        assert image_fault(file, look_inside=False) == ''


def test_truncated_pngs(tmp_path):
    content = bytes(cv2.imencode('.png', np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))[1])
    file = tmp_path / 'a.png'
    for behind in (b'', b'any' * 99):
        file.write_bytes(content + behind)
        assert image_fault(file) == ''
    for length in np.linspace(8, len(content) - 13, 30).astype(int):
        file.write_bytes(content[:length])
        assert image_fault(file) == 'truncated PNG', length


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'PPM', 'GIF'])
def test_a_huge_image_is_known_by_its_header(tmp_path, kind):
    file = tmp_path / 'a.any'
    Image.new('L', (64, 48)).save(file, format=kind)
    assert image_fault(file) == '' and image_size(file) == (64, 48)
    content, side = bytearray(file.read_bytes()), 30_000
    if kind == 'PNG':
        header = b'IHDR' + struct.pack('>II', side, side) + content[24:29]
        content[12:33] = header + struct.pack('>I', zlib.crc32(header))
    elif kind == 'BMP':
        content[18:26] = struct.pack('<II', side, side)
    elif kind == 'PPM':
        content = content.replace(b'64 48', b'%d %d' % (side, side), 1)
    else:
        content[6:10] = content[-15:-11] = struct.pack('<HH', side, side)
    file.write_bytes(content)
    assert image_fault(file) == 'too large: 30000 x 30000 pixels. Cut it into tiles'
    assert image_fault(file, look_inside=False) == image_fault(file, most_pixels=side**2) == ''


def test_paths_and_files_that_are_not_images(tmp_path):
    (tmp_path / 'empty.png').touch()
    os.mkfifo(tmp_path / 'pipe.png')  # opening it would wait forever
    for name, fault in (
        ('empty.png', 'empty'),
        ('pipe.png', 'not a regular file'),
        ('', 'not a regular file'),
        ('none.png', 'No such file or directory'),
        ('a\0b.png', 'embedded null'),
        ('\ud800.png', 'surrogates not allowed'),
    ):
        assert fault in image_fault(f'{tmp_path}/{name}')
        assert image_fault(f'{tmp_path}/{name}', look_inside=False)
    (tmp_path / 'text.png').write_text('any')
    assert image_fault(tmp_path / 'text.png') == ''  # only decoding finds the fault
