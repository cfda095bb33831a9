"""Random single mistakes: one line, or a training that does what the setting says. See ``tests.helpers.mistakes``."""

import pytest

from tests.helpers.mistakes import Mistake, changed, ending, judged, mistakes, tiny_config


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp('tiny'))


@pytest.mark.parametrize('turn', range(4))
def test_a_mistake_ends_in_a_line_or_in_a_training(tiny, tmp_path, turn):
    mistake, cfg = list(mistakes(tiny, turn + 1, seed=0))[turn]
    end, said = ending(cfg, tmp_path)
    assert judged(mistake, end) in ('a line', 'trains'), f'{mistake}: {end}\n{said}'
    assert 'Traceback' not in said


@pytest.mark.parametrize(
    'where, trains', [('model.detector.test_cfg.scre_thr', False), ('default_hooks.lamda_bg', True)]
)
def test_a_training_that_ignores_a_misspelt_entry_is_a_fault(where, trains):
    assert (judged(Mistake('misspelt', where, 1), 'trains') == 'trains') == trains
    assert judged(Mistake('misspelt', where, 1), 'a line') == 'a line'


@pytest.mark.parametrize(
    'path, value, got',
    [
        ('model.detector.neck.widen_factor', 0.5, 'to have 768 channels, but got 96'),
        ('model.detector.test_cfg.nms.type', dict(a='b'), "'ConfigDict' object is not callable"),
    ],
)
def test_what_stops_the_first_validation_is_found_at_the_start(tiny, tmp_path, path, value, got):
    end, said = ending(changed(tiny.to_dict(), path, value), tmp_path)
    assert end == 'a line' and 'the first validation image' in said and got in said
