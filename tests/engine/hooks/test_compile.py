import pytest

from mmyolo_bgpenalty import CompileHook
from tests.helpers.stand_ins import plain_model, runner


def test_a_model_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match='a model with a backbone, but got Model'):
        CompileHook().before_train(runner(plain_model()))
