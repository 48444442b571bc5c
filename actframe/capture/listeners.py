"""Who listens to what classes of a library do: while somebody does, methods of theirs are others that tell it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

__all__ = ["Listeners", "Telling"]

Listener = TypeVar("Listener")
Telling = tuple[type, str, Callable[..., Any]]
"""A class, the name of a method of it, and what tells the listeners in that method's place."""


class Listeners(Generic[Listener]):
    """Those who listen at this moment, in the order in which they began. Nothing is left on a class after the last one.

    Args:
        methods: gives what stands in the place of methods, when the first one begins to listen.
    """

    def __init__(self, methods: Callable[[], Iterable[Telling]]) -> None:
        self._methods = methods
        self._listening: list[Listener] = []
        self._before: list[Telling] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Listener]:
        return iter(list(self._listening))

    @contextmanager
    def joined_by(self, listener: Listener) -> Iterator[None]:
        """Tell a listener too while the block runs."""
        with self._lock:
            if not self._listening:
                for method in list(self._methods()):
                    self._replace(*method)
            self._listening.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listening.remove(listener)
                while self._before and not self._listening:
                    _put_back(*self._before.pop())

    def _replace(self, owner: type, name: str, telling: Callable[..., Any]) -> None:
        self._before.append((owner, name, vars(owner).get(name, _inherited)))
        setattr(owner, name, telling)


def _put_back(owner: type, name: str, before: Callable[..., Any]) -> None:
    if before is _inherited:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


def _inherited() -> None:
    """Stands for a method that the class itself does not have."""
