"""Json with mistakes for all that reads it; what may come out is said in fuzz_json.py."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from gc import unfreeze
from itertools import count

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mmengine.logging import MMLogger

from tests.helpers import fuzz_json
from tests.helpers.fuzz_json import BASES, READERS, check, mutated
from tests.helpers.tiny import ROOT

MINUTE = 60


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    logger = MMLogger.get_current_instance()
    level = logger.level
    fuzz_json.set_up()
    yield tmp_path_factory.mktemp('json')
    logger.setLevel(level)
    unfreeze()


def fuzz(name, folder, examples, number=None):
    """How many files a reader accepted (True) and refused; the examples are others for each ``number``."""
    counts = Counter()

    @settings(max_examples=examples, derandomize=number is None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data):
        content = mutated(lambda n: data.draw(st.integers(0, n - 1)), BASES[name])
        counts[check(name, content, folder)] += 1

    (one if number is None else seed(number)(one))()
    return counts


@pytest.mark.parametrize('name', READERS)
def test_mistakes_in_json_are_errors_that_name_the_file(folder, name):
    counts = fuzz(name, folder, 30)
    assert counts[True] and counts[False]


@pytest.mark.slow
def test_a_minute_of_hypothesis(folder, capsys):
    counts, end = Counter(), time.monotonic() + MINUTE
    for number in count():
        for name in READERS:
            for accepted, times in fuzz(name, folder, 50, number).items():
                counts[name, accepted] += times
        if time.monotonic() > end:
            break
    with capsys.disabled():
        print('\nhypothesis:', *(f'{name} {counts[name, True]} + {counts[name, False]}' for name in READERS))
    assert all(counts[name, accepted] for name in READERS for accepted in (True, False))


@pytest.fixture
def atheris(tmp_path):
    """PYTHONPATH of an interpreter with atheris: the environment's, or one that is installed for this test alone."""
    path, target = str(ROOT), str(tmp_path / 'atheris')
    if subprocess.run([sys.executable, '-c', 'import atheris'], capture_output=True).returncode == 0:
        return path
    install = [sys.executable, '-m', 'pip', 'install', '--quiet', '--retries', '1', '--target', target, 'atheris']
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f'atheris cannot be installed here: {done.stderr.strip().splitlines()[-1]}')
    return os.pathsep.join([path, target])


@pytest.mark.slow
def test_a_minute_of_atheris(atheris, tmp_path, capsys):
    options = [f'-max_total_time={MINUTE}', '-rss_limit_mb=8000', '-timeout=60', f'-artifact_prefix={tmp_path}/']
    done = subprocess.run(
        [sys.executable, '-m', 'tests.helpers.fuzz_json', *options],
        env={**os.environ, 'PYTHONPATH': atheris, 'TMPDIR': str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=10 * MINUTE,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5000:]
    (runs,) = re.findall(r'Done (\d+) runs', said)
    with capsys.disabled():
        print(f'\natheris: {runs} runs')
    assert int(runs) > 100
