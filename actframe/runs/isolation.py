"""Batches of which one item fails: it is left out, and the others are computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from actframe.runs.memory import Halving

__all__ = ["Isolation", "Part"]

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 3
"""When so many items in a row have failed, it is not about the items."""


@dataclass(frozen=True)
class Part(Generic[Item, Result]):
    """A part of a batch.

    Attributes:
        items: what was computed together.
        result: of them; None where they failed.
        seconds: how long it took.
        reason: why they failed, in a line; None where they did not.
    """

    items: Sequence[Item]
    result: Result | None
    seconds: float
    reason: str | None = None


class Isolation(Generic[Item]):
    """Computes batches, in parts where memory does not suffice or one item fails.

    Args:
        size: how large a batch is, as in `Halving`.
    """

    def __init__(self, size: Callable[[Sequence[Item]], int]) -> None:
        self._halving: Halving[Item] = Halving(size)
        self._failed = 0

    @property
    def refused(self) -> int | None:
        """The smallest size that memory did not suffice for, as in `Halving`."""
        return self._halving.refused

    def run(self, batch: Sequence[Item], compute: Callable[[Sequence[Item]], Result]) -> Iterator[Part[Item, Result]]:
        """Compute a batch; gives each part with its result, in order. An item that fails is a part by itself.

        A batch that fails is computed in halves, and so on, until what fails stands alone.

        Args:
            batch: at least one item.
            compute: must leave nothing behind where it raises; as in `Halving.run`.

        Raises:
            Exception: several items in a row failed; this is of the last one.
        """
        todo = [batch]
        while todo:
            items = todo.pop()
            done, reason = 0, None
            began = time.monotonic()
            try:
                for part, result in self._halving.run(items, compute):
                    self._failed = 0
                    done += len(part)
                    yield Part(part, result, time.monotonic() - began)
                    began = time.monotonic()
                continue
            except Exception as error:
                if len(items) - done == 1:
                    self._failed += 1
                    if self._failed >= PATIENCE:
                        raise
                    reason = _in_a_line(error)
            # Here the error is gone, and with it the frames that held what it had computed.
            rest = items[done:]
            if reason is not None:
                yield Part(rest, None, time.monotonic() - began, reason)
                continue
            middle = (len(rest) + 1) // 2
            todo += [rest[middle:], rest[:middle]]


def _in_a_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:400]}{' ...' if len(words) > 400 else ''}"
