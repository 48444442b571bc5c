"""What happens to the rows of a KV cache between forward passes: beams are reordered, rows selected, prefixes copied.

While somebody records, these methods of transformers' caches tell it. Nothing is left on a cache, and nothing on its
class when the last recording has ended.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache

__all__ = ["CacheListener", "observe_caches"]


class CacheListener(Protocol):
    """Is told what happens to caches."""

    def rows_moved(self, cache: Any, rows: Callable[[int], list[int]], *, others_ended: bool) -> None:
        """Row i of a cache is now what row `rows(count)[i]` of its `count` rows was.

        Args:
            cache: whose rows moved.
            rows: gives the old number of each row.
            others_ended: whether rows that are left out are sequences that have ended, and not ones that were given
                up, as beams are.
        """

    def cache_copied(self, cache: Any, copied: Any) -> None:
        """A cache was deep-copied: two of them now go on from the same columns."""


_listeners: list[CacheListener] = []
_lock = threading.Lock()
_restore: list[Callable[[], None]] = []


@contextmanager
def observe_caches(listener: CacheListener) -> Iterator[None]:
    """Tell a listener what happens to caches while the block runs."""
    with _lock:
        if not _listeners:
            _install()
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)
            if not _listeners:
                while _restore:
                    _restore.pop()()


def _install() -> None:
    _replace("reorder_cache", _telling(Cache.reorder_cache, _reordered, others_ended=False))
    _replace("batch_select_indices", _telling(Cache.batch_select_indices, _selected, others_ended=True))
    _replace("batch_repeat_interleave", _telling(Cache.batch_repeat_interleave, _repeated, others_ended=False))
    # A crop may give the keys new memory; rows stay where they are.
    _replace("crop", _telling(Cache.crop, _cropped, others_ended=False))
    _replace("__deepcopy__", _deepcopy)


def _replace(name: str, function: Callable[..., Any]) -> None:
    before = vars(Cache).get(name)
    setattr(Cache, name, function)
    _restore.append(
        functools.partial(setattr, Cache, name, before) if before else functools.partial(delattr, Cache, name)
    )


def _telling(
    original: Callable[..., None], rows_of: Callable[[int, Any], list[int]], *, others_ended: bool
) -> Callable[..., None]:
    @functools.wraps(original)
    def method(self: Cache, argument: Any) -> None:
        original(self, argument)
        for listener in list(_listeners):
            listener.rows_moved(self, lambda count: rows_of(count, argument), others_ended=others_ended)

    return method


def _deepcopy(self: Cache, memo: dict[int, Any]) -> Cache:
    copied: Cache = self.__class__.__new__(self.__class__)
    memo[id(self)] = copied
    for name, value in vars(self).items():
        vars(copied)[name] = copy.deepcopy(value, memo)
    for listener in list(_listeners):
        listener.cache_copied(self, copied)
    return copied


def _reordered(count: int, indices: Any) -> list[int]:
    return _numbers(indices)


def _selected(count: int, indices: Any) -> list[int]:
    if isinstance(indices, Tensor) and indices.dtype is torch.bool:
        return indices.nonzero().flatten().tolist()
    return [row % count for row in _numbers(indices)]


def _repeated(count: int, repeats: int) -> list[int]:
    return [row for row in range(count) for _ in range(repeats)]


def _cropped(count: int, removed: int) -> list[int]:
    return list(range(count))


def _numbers(indices: Any) -> list[int]:
    return [int(each) for each in (indices.tolist() if isinstance(indices, Tensor) else indices)]
