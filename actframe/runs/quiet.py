"""Keep transformers' bars and notices off the terminal while actframe speaks for itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

__all__ = ["without_bars", "without_notices"]


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers inside the block. Enter it from one thread at a time."""
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def without_notices() -> Iterator[None]:
    """Inside the block, transformers logs nothing below an error, in this thread alone.

    A filter for each block, not the library's verbosity: that is one global, and two threads that save and
    restore it in turn would leave it changed.
    """
    thread = threading.get_ident()

    def errors_only(log_record: logging.LogRecord) -> bool:
        return log_record.thread != thread or log_record.levelno >= logging.ERROR

    handlers = list(logging.getLogger("transformers").handlers)
    for handler in handlers:
        handler.addFilter(errors_only)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(errors_only)
