"""Who is recording a model at this moment, and the one place where its `generate` is wrapped for them."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from actframe.capture.generation import Generation
from actframe.capture.session import Session
from actframe.errors import CaptureError

__all__ = ["watch"]

_watched: weakref.WeakKeyDictionary[nn.Module, _Watched] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class _Watched:
    """The sessions that record one model, all of one thread, in the order in which they began."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.sessions: list[Session] = []


@contextmanager
def watch(model: nn.Module, session: Session) -> Iterator[None]:
    """Let a session know of every call of `model.generate`, beside others that record the same model.

    Raises:
        CaptureError: another thread is recording this model.
    """
    with _lock:
        watched = _watched.setdefault(model, _Watched())
        if watched.sessions and watched.thread != threading.get_ident():
            raise CaptureError(
                f"another thread is recording this {type(model).__name__}; one model is recorded from one thread "
                "at a time. Give each thread its own copy, or take turns"
            )
        watched.thread = threading.get_ident()
        watched.sessions.append(session)
        if len(watched.sessions) == 1 and hasattr(model, "generate"):
            _wrap(model, watched)
    try:
        yield
    finally:
        with _lock:
            watched.sessions.remove(session)
            if not watched.sessions:
                _watched.pop(model, None)
                vars(model).pop("generate", None)


def _wrap(model: nn.Module, watched: _Watched) -> None:
    original: Any = model.generate

    @functools.wraps(original)
    def generate(*args: Any, **kwargs: Any) -> Any:
        # A model that drafts for itself calls generate within generate; that is part of the one answer.
        sessions = [session for session in watched.sessions if not session.in_generation()]
        try:
            for session in sessions:
                session.start_generation(Generation(model, original, args, kwargs))
            result = original(*args, **kwargs)
            for session in sessions:
                session.finish_generation(result)
        except BaseException:
            for session in sessions:
                session.abandon_generation()
            raise
        return result

    vars(model)["generate"] = generate
