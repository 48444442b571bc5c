"""Who is recording a model at this moment, and the one place where its `generate` is wrapped for them."""

from __future__ import annotations

import copy
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
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
        self.before: Any = None


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
            watched.before = vars(model).get("generate")
            vars(model)["generate"] = _Generate(model, watched)
    try:
        yield
    finally:
        with _lock:
            watched.sessions.remove(session)
            if not watched.sessions:
                _watched.pop(model, None)
                vars(model).pop("generate", None)
                if watched.before is not None:
                    vars(model)["generate"] = watched.before


class _Generate:
    """Stands for `model.generate` while it is watched; in a copy of the model, for the copy's own."""

    def __init__(self, model: Any, watched: _Watched) -> None:
        self._model = model
        self._watched = watched
        self._original: Callable[..., Any] = model.generate
        functools.update_wrapper(self, self._original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A model that drafts for itself calls generate within generate; that is part of the one answer.
        sessions = [session for session in self._watched.sessions if not session.generates()]
        try:
            for session in sessions:
                session.start_generation(Generation(self._model, self._original, args, kwargs))
            result = self._original(*args, **kwargs)
            for session in sessions:
                session.finish_generation(result)
        except BaseException:
            for session in sessions:
                session.abandon_generation()
            raise
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._model))
        if copied is None or self._watched.before is not None:
            return copy.deepcopy(self._original, memo)
        return MethodType(type(self._model).generate, copied)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, "generate")
