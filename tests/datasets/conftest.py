"""Fixtures of the tests of datasets."""

import logging
import shutil

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope


@pytest.fixture
def root(data, tmp_path):
    """A copy of the tiny set. A test may change it."""
    init_default_scope('mmyolo')
    return shutil.copytree(data, tmp_path / 'set')


@pytest.fixture
def warnings():
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
