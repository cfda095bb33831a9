"""Fixtures of the tests of datasets."""

import logging
import shutil

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from tests.helpers.tiny import make_set


@pytest.fixture(scope='session')
def tiny_set(tmp_path_factory):
    """``make_set``'s files; no test may change them."""
    return make_set(tmp_path_factory.mktemp('set'))


@pytest.fixture
def root(tiny_set, tmp_path):
    """A set to spoil."""
    init_default_scope('mmyolo')
    return shutil.copytree(tiny_set, tmp_path / 'set')


@pytest.fixture
def warnings():
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
