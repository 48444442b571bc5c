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

from actframe.capture.caches import observe_caches
from actframe.capture.continuous import observe_managers
from actframe.capture.generation import Generation
from actframe.capture.session import Session
from actframe.errors import CaptureError

__all__ = ["watch"]

_watched: weakref.WeakKeyDictionary[nn.Module, _Watched] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class _Watched:
    """The sessions that record one model, in the order in which they began."""

    def __init__(self, name: str) -> None:
        self.sessions: list[Session] = []
        self.before: Any = None
        self._name = name

    def is_recorded_by(self, session: Session) -> bool:
        """Whether a session records what the running thread does: its own thread, or one without a recorder.

        Raises:
            CaptureError: several threads record the model, and this is none of them.
        """
        thread = threading.get_ident()
        if session.thread == thread:
            return True
        if followers := [each for each in self.sessions if each.packed.runs_this_thread()]:
            return session in followers
        recording = {each.thread for each in self.sessions}
        if thread in recording:
            return False
        if len(recording) > 1:
            raise CaptureError(
                f"a thread ran this {self._name} without a recorder of its own while {len(recording)} other threads "
                "record it, so it cannot be told whose records these are; open a recorder in the thread that runs"
            )
        return True


@contextmanager
def watch(model: nn.Module, session: Session) -> Iterator[None]:
    """Let a session know of every call of `model.generate` and of what happens to KV caches, beside other sessions."""
    with _lock:
        watched = _watched.setdefault(model, _Watched(type(model).__name__))
        watched.sessions = [*watched.sessions, session]
        if len(watched.sessions) == 1 and hasattr(model, "generate"):
            watched.before = vars(model).get("generate")
            vars(model)["generate"] = _Generate(model, watched)
    session.records_this_thread = functools.partial(watched.is_recorded_by, session)
    session.packed.concerns = functools.partial(_concerns, session, model)
    try:
        with observe_caches(session.groups), observe_managers(session.packed):
            yield
    finally:
        session.packed.go_on()
        with _lock:
            watched.sessions = [each for each in watched.sessions if each is not session]
            if not watched.sessions:
                _watched.pop(model, None)
                vars(model).pop("generate", None)
                if watched.before is not None:
                    vars(model)["generate"] = watched.before


def _concerns(session: Session, model: nn.Module, other: nn.Module) -> bool:
    """Whether to run another model in this thread is to run the recorded one, whichever of them is around the other."""
    both = any(module is other for module in model.modules()) or any(module is model for module in other.modules())
    return both and session.records_this_thread()


class _Generate:
    """Stands for `model.generate` while it is watched; in a copy of the model, for the copy's own."""

    def __init__(self, model: Any, watched: _Watched) -> None:
        self._model = model
        self._watched = watched
        self._original: Callable[..., Any] = model.generate
        functools.update_wrapper(self, self._original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sessions = [each for each in self._watched.sessions if self._watched.is_recorded_by(each)]
        outermost = [each for each in sessions if each.generation() is None]
        # A model that drafts for itself calls generate within generate.
        around = [generation for each in sessions if (generation := each.generation()) is not None]
        for generation in around:
            generation.depth += 1
        try:
            for session in outermost:
                session.start_generation(Generation(self._model, self._original, args, kwargs))
            result = self._original(*args, **kwargs)
            for session in outermost:
                session.finish_generation(result)
        except BaseException:
            for session in outermost:
                session.abandon_generation()
            raise
        finally:
            for generation in around:
                generation.depth -= 1
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._model))
        if copied is None or self._watched.before is not None:
            return copy.deepcopy(self._original, memo)
        return MethodType(type(self._model).generate, copied)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, "generate")
