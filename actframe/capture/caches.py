"""What happens to the rows of a KV cache between forward passes: beams are reordered, rows selected, prefixes copied.

While somebody records, these methods of transformers' caches tell it. Nothing is left on a cache, and nothing on its
class when the last recording has ended.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from actframe.capture.listeners import Listeners, Telling

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


def observe_caches(listener: CacheListener) -> AbstractContextManager[None]:
    """Tell a listener what happens to caches while the block runs."""
    return _listeners.joined_by(listener)


def _methods() -> Iterator[Telling]:
    yield Cache, "reorder_cache", _telling(Cache.reorder_cache, _reordered, others_ended=False)
    yield Cache, "batch_select_indices", _telling(Cache.batch_select_indices, _selected, others_ended=True)
    yield Cache, "batch_repeat_interleave", _telling(Cache.batch_repeat_interleave, _repeated, others_ended=False)
    # A crop may give the keys new memory; rows stay where they are.
    yield Cache, "crop", _telling(Cache.crop, _cropped, others_ended=False)
    yield Cache, "__deepcopy__", _deepcopy


_listeners: Listeners[CacheListener] = Listeners(_methods)


def _telling(
    original: Callable[..., Any], rows_of: Callable[[int, Any], list[int]], *, others_ended: bool
) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        # Releases of transformers give the one parameter beside the cache other names.
        cache, argument = list(signature.bind(*args, **kwargs).arguments.values())[:2]
        for listener in _listeners:
            listener.rows_moved(cache, lambda count: rows_of(count, argument), others_ended=others_ended)
        return result

    return method


def _deepcopy(self: Cache, memo: dict[int, Any]) -> Cache:
    copied: Cache = self.__class__.__new__(self.__class__)
    memo[id(self)] = copied
    for name, value in vars(self).items():
        vars(copied)[name] = copy.deepcopy(value, memo)
    for listener in _listeners:
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
