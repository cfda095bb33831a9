import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmyolo_bgpenalty.utils import files
from mmyolo_bgpenalty.utils.files import lock_folder, read_json, unlock_folders, write_together, write_whole


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


def test_a_full_disk_is_named_with_the_path(file):
    """A write to /dev/full fails as on a full disk. Its error has no file name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, 'with_name', lambda path, name: Path('/dev/full'))
        patch.setattr(Path, 'unlink', lambda path, missing_ok: None)
        with pytest.raises(OSError, match=f'No space left on device: {str(file)!r}'):
            write_whole(file, 'x')
    assert not file.exists()


FOLDER = Path(files.__file__).parent
# Without the import of the whole package, which takes seconds.
LOCK = 'import os, sys; from files import lock_folder as lock; lock(sys.argv[1]); print("locked")'


def locking(folder, then='0'):
    """Start a process that locks a folder and executes a line."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=FOLDER)
    return subprocess.Popen([sys.executable, '-u', '-c', f'{LOCK}; {then}', str(folder)], text=True, **pipes)


def test_a_folder_is_locked_by_one_process_until_it_ends(tmp_path):
    """Also if it is killed while its child goes on."""
    folder = tmp_path / 'runs' / 'a'
    with locking(folder, 'os.fork(); sys.stdin.read()') as first:
        assert first.stdout.readline() == 'locked\n'
        with pytest.raises(ValueError, match=f'{folder} is used by process {first.pid} on .* since 20..-'):
            lock_folder(folder)
        assert f'is used by process {first.pid}' in locking(folder).communicate()[1]
        first.kill()
        first.wait()
        lock_folder(folder)
        lock_folder(folder)  # again in this process
        assert f'is used by process {os.getpid()}' in locking(folder).communicate()[1]
        unlock_folders()
        assert locking(folder).communicate()[0] == 'locked\n'


def test_a_forked_process_does_not_own_the_lock_of_its_parent(tmp_path):
    forks = 'sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) if os.fork() else lock(sys.argv[1]))'
    with locking(tmp_path, forks) as first:
        assert f'is used by process {first.pid}' in first.communicate()[1]
    assert first.returncode == 1
