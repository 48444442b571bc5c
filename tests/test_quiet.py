"""Bars and notices of transformers are silent inside the blocks, and only there."""

import logging
import threading

import pytest
from transformers.utils import logging as transformers_logging

from actframe.runs.quiet import without_bars, without_notices


@pytest.fixture
def heard():
    """What the library's handlers let through."""
    logger = logging.getLogger("transformers")
    messages = []

    class Ear(logging.Handler):
        def emit(self, log_record):
            messages.append(log_record.getMessage())

    ear = Ear()
    logger.addHandler(ear)
    yield messages
    logger.removeHandler(ear)


def test_notices_are_dropped_and_errors_are_not(heard):
    logger = logging.getLogger("transformers.generation")
    with without_notices():
        logger.warning("a notice")
        logger.error("an error")
    logger.warning("a later notice")
    assert heard == ["an error", "a later notice"]


def test_notices_of_other_threads_are_still_heard(heard):
    with without_notices():
        thread = threading.Thread(target=logging.getLogger("transformers").warning, args=("from elsewhere",))
        thread.start()
        thread.join()
    assert heard == ["from elsewhere"]


def test_blocks_that_overlap_leave_no_filter_behind(heard):
    first, second = without_notices(), without_notices()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    logging.getLogger("transformers").warning("still silent")
    second.__exit__(None, None, None)
    logging.getLogger("transformers").warning("heard")
    assert heard == ["heard"]


def test_bars_come_back_also_after_an_error():
    assert transformers_logging.is_progress_bar_enabled()
    with pytest.raises(KeyError), without_bars():
        assert not transformers_logging.is_progress_bar_enabled()
        raise KeyError
    assert transformers_logging.is_progress_bar_enabled()


def test_bars_that_the_user_switched_off_stay_off():
    transformers_logging.disable_progress_bar()
    try:
        with without_bars():
            pass
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()
