"""Who makes, feeds and stops a manager of continuous batching, and what it answers: told to those who record.

`generate_batch` and transformers' own context manager make a manager, which runs the model in a thread of its own, and
stop it. While somebody records, these methods of transformers tell it; nothing is left on them afterwards.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from actframe.capture.listeners import Listeners, Telling

__all__ = ["ManagerListener", "observe_managers"]


class ManagerListener(Protocol):
    """Is told what happens to managers of continuous batching, of any model."""

    def manager_begins(self, manager: Any) -> None:
        """A manager was made, or taken out again, or is about to start; an error stops it before anything runs."""

    def requests_named(self, manager: Any, names: list[str]) -> None:
        """A manager was given requests, in this order, whatever was said of some of them before."""

    def request_answered(self, router: Any, output: Any) -> None:
        """A manager's `output_router` gives out an answer, or a part of it; in the manager's thread."""

    def manager_stopped(self, manager: Any) -> None:
        """A manager's `stop` has returned."""


_API = "transformers.generation.continuous_batching.continuous_api"


def observe_managers(listener: ManagerListener) -> AbstractContextManager[None]:
    """Tell a listener of every manager while the block runs."""
    return _listeners.joined_by(listener)


def _methods() -> Iterator[Telling]:
    # A model that can generate has loaded it.
    api = sys.modules.get(_API)
    if api is None:
        return
    yield from _around(api.ContinuousMixin, "init_continuous_batching", _beginning)
    yield from _around(api.ContinuousBatchingManager, "start", _starting)
    yield from _around(api.ContinuousBatchingManager, "stop", _stopping)
    yield from _around(api.ContinuousBatchingManager, "add_request", _naming_one)
    yield from _around(api.ContinuousBatchingManager, "add_requests", _naming)
    yield from _around(api.OutputRouter, "deliver", _delivering)
    yield from _around(api.OutputRouter, "deliver_batch", _delivering_many)


_listeners: Listeners[ManagerListener] = Listeners(_methods)


def _around(owner: type, name: str, around: Callable[..., Any]) -> Iterator[Telling]:
    original = vars(owner).get(name)
    if original is None:
        return

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(self, functools.partial(original, self, *args, **kwargs), *args, **kwargs)

    yield owner, name, method


def _beginning(model: Any, proceed: Callable[[], Any], *_: Any, **__: Any) -> Any:
    manager = proceed()
    _begin(manager)
    return manager


def _starting(manager: Any, proceed: Callable[[], None]) -> None:
    _begin(manager)
    proceed()


def _begin(manager: Any) -> None:
    try:
        for listener in _listeners:
            listener.manager_begins(manager)
    except BaseException:
        # To make a manager switches the model's attention; to stop one that never started would not switch it back.
        before = getattr(manager, "_original_attn_impl", None)
        if before is not None:
            manager.model.set_attn_implementation(before)
            manager._original_attn_impl = None
        raise


def _stopping(manager: Any, proceed: Callable[[], None], *_: Any, **__: Any) -> None:
    proceed()
    failures: list[Exception] = []
    for listener in _listeners:
        try:
            listener.manager_stopped(manager)
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _naming_one(manager: Any, proceed: Callable[[], str | None], *_: Any, **__: Any) -> str | None:
    name = proceed()
    if name is not None:
        _name(manager, [name])
    return name


def _naming(manager: Any, proceed: Callable[[], list[str]], *_: Any, **__: Any) -> list[str]:
    # The requests are added in an order that suits the cache; their names come in that of the inputs.
    names = proceed()
    _name(manager, [name for name in names if name is not None])
    return names


def _name(manager: Any, names: list[str]) -> None:
    for listener in _listeners:
        listener.requests_named(manager, names)


def _delivering(router: Any, proceed: Callable[[], None], output: Any) -> None:
    _tell(router, [output])
    proceed()


def _delivering_many(router: Any, proceed: Callable[[], None], outputs: list[Any]) -> None:
    _tell(router, outputs)
    proceed()


def _tell(router: Any, outputs: list[Any]) -> None:
    for listener in _listeners:
        for output in outputs:
            listener.request_answered(router, output)
