"""Random single mistakes: one line, or a training that does what the setting says. See ``tests.helpers.mistakes``."""

import pytest

from tests.helpers.mistakes import ending, mistakes, tiny_config


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp('tiny'))


@pytest.mark.parametrize('turn', range(4))
def test_a_mistake_ends_in_a_line_or_in_a_training(tiny, tmp_path, turn):
    mistake, cfg = list(mistakes(tiny, turn + 1, seed=0))[turn]
    end, said = ending(cfg, tmp_path)
    assert end in ('a line', 'trains'), f'{mistake}: {end}\n{said}'
    assert 'Traceback' not in said
