import gc
import os

import pytest

from mmyolo_bgpenalty.utils.files import read_json, write_together, write_whole


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'set.json'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_json_in_the_encodings_of_other_systems(file, encoding):
    file.write_bytes('{"Größe": [1.5, "λ"]}'.encode(encoding))
    assert read_json(file) == {'Größe': [1.5, 'λ']}


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'is not valid json'),
        (b'{"images": [', 'is not valid json'),
        (b'[' * 200_000, 'is not valid json'),
        (b'{"a": "\xff\xfe\xfa"}', 'cannot be read'),
        (None, 'no such file'),
    ],
)
def test_invalid_json_is_reported_with_its_path(file, content, message):
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_json(file)
    assert str(caught.value).startswith(f'{file}: {message}')


@pytest.mark.parametrize('set_collection', [gc.enable, gc.disable])
def test_reading_leaves_the_garbage_collector_as_it_was(file, set_collection):
    set_collection()
    try:
        before = gc.isenabled()
        with pytest.raises(ValueError):
            read_json(file)
        assert gc.isenabled() == before
    finally:
        gc.enable()


def test_a_folder_is_not_json(tmp_path):
    with pytest.raises(ValueError, match='cannot be read: Is a directory'):
        read_json(tmp_path)


def test_files_have_the_same_bytes_on_every_system(tmp_path):
    write_whole(tmp_path / 'new/folder/a.txt', 'ä\nb\r\n')
    write_whole(str(tmp_path / 'b.bin'), b'\x00\r\n')
    assert (tmp_path / 'new/folder/a.txt').read_bytes() == b'\xc3\xa4\nb\r\n'
    assert (tmp_path / 'b.bin').read_bytes() == b'\x00\r\n'
    write_whole(tmp_path / 'b.bin', 'new')
    assert (tmp_path / 'b.bin').read_text() == 'new'
    assert sorted(os.listdir(tmp_path)) == ['b.bin', 'new']


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    write_whole(tmp_path / 'a', 'old')

    def full(self, content):
        with self.open('wb') as handle:
            handle.write(content[:2])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('pathlib.Path.write_bytes', full)
    with pytest.raises(OSError, match='No space'):
        write_whole(tmp_path / 'a', 'something new')
    assert (tmp_path / 'a').read_text() == 'old' and os.listdir(tmp_path) == ['a']


def test_all_files_are_written_or_none(tmp_path):
    def files():
        yield tmp_path / 'a', 'A'
        yield tmp_path / 'b', 'B'
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_together(files())
    assert os.listdir(tmp_path) == []
    write_together([(tmp_path / 'a', 'A')])
    (tmp_path / 'folder').mkdir()  # no file can replace it
    with pytest.raises(ValueError, match='folder: is a folder'):
        write_together([(tmp_path / 'a', 'new'), (tmp_path / 'folder', 'x')], overwrite=True)
    assert (tmp_path / 'a').read_text() == 'A' and sorted(os.listdir(tmp_path)) == ['a', 'folder']


def test_other_contents_are_replaced_only_on_request(tmp_path):
    write_together([(tmp_path / 'a', 'A'), (tmp_path / 'b', 'B')])
    write_together([(tmp_path / 'a', 'A'), (tmp_path / 'b', 'B'), (tmp_path / 'c', 'C')])
    # 'X' has the size of the old contents.
    with pytest.raises(ValueError, match='b: exists with other contents'):
        write_together([(tmp_path / 'd', 'D'), (tmp_path / 'b', 'X')])
    assert sorted(os.listdir(tmp_path)) == ['a', 'b', 'c'] and (tmp_path / 'b').read_text() == 'B'
    write_together([(tmp_path / 'd', 'D'), (tmp_path / 'b', 'X')], overwrite=True)
    assert (tmp_path / 'd').read_text() == 'D' and (tmp_path / 'b').read_text() == 'X'
