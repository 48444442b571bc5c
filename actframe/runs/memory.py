"""Batches that do not fit into memory: they are halved until they do."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

__all__ = ["Halving", "is_out_of_memory"]

Item = TypeVar("Item")
Result = TypeVar("Result")

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What allocators say that raise a plain RuntimeError: of CPUs (Linux, Windows), of other accelerators, of cuBLAS."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return type(error) is RuntimeError and any(words in str(error) for words in OUT_OF_MEMORY)


class Halving(Generic[Item]):
    """Computes batches, those in halves that memory does not suffice for, and remembers how large is too large.

        halving = Halving()
        for part, answers in halving.run(prompts, generate):
            ...

    Args:
        size: how large a batch is, in whatever grows with its memory: tokens, say. Default: how many items it has.

    Attributes:
        refused: the smallest size that memory did not suffice for, None until there is one. A batch of that size is
            halved at once from then on, without another try.
    """

    def __init__(self, size: Callable[[Sequence[Item]], int] = len) -> None:
        self._size = size
        self.refused: int | None = None

    def run(
        self, batch: Sequence[Item], compute: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Compute a batch, in as few parts as memory allows; gives each part with its result, in order.

        Args:
            batch: at least one item.
            compute: of a part that does not fit it is called again, with halves of it, so until it returns it must
                leave nothing behind.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: memory does not even suffice for one item; a note on it
                says so.
        """
        parts = [batch]
        while parts:
            part = parts.pop()
            if len(part) == 1 or not self._is_refused(part):
                try:
                    result = compute(part)
                except (RuntimeError, MemoryError) as error:
                    self._refuse(part, error)
                else:
                    yield part, result
                    del result
                    continue
            # Here the error is gone, and with it the frames that held what it had computed.
            _free()
            middle = (len(part) + 1) // 2
            parts += [part[middle:], part[:middle]]

    def _is_refused(self, part: Sequence[Item]) -> bool:
        return self.refused is not None and self._size(part) >= self.refused

    def _refuse(self, part: Sequence[Item], error: RuntimeError | MemoryError) -> None:
        """Remember that a part is too large; let an error go on that halving does not help against."""
        if not is_out_of_memory(error):
            raise error
        if len(part) == 1:
            error.add_note("there is not enough memory for even one sequence alone: shorten it, or record less of it")
            raise error
        self.refused = self._size(part)


def _free() -> None:
    """Give back to the device what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
