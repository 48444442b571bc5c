"""Scratch: memory for rows while their sequences grow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from actframe.capture.copies import Copies

__all__ = ["Scratch"]


class Scratch:
    """Memory for rows while their sequences grow.

    It comes in pieces so large that it lies apart from the memory that the model takes and gives back at every step:
    small pieces in between would cost the model more than the copies do. Memory that has been written once is several
    times faster to write again, so `reset` keeps it.

    Attributes:
        copies: those into this memory that come from a device and may not have arrived.
    """

    CHUNK_BYTES = 64 << 20
    KEPT_BYTES = 128 << 20
    _ALIGNMENT = 64

    def __init__(self) -> None:
        self.copies = Copies()
        self._chunks: list[Tensor] = []
        self._pinned: list[bool] = []
        self._number = 0
        self._offset = 0

    def new(self, shape: Sequence[int], dtype: torch.dtype, *, pinned: bool = False) -> Tensor:
        """An uninitialised tensor that stays valid until `reset`; pinned ones take copies from a CUDA device."""
        count = math.prod(shape) * dtype.itemsize
        if not self._chunks or not self._has_room(count, pinned):
            self._turn_to_a_chunk_of(count, pinned)
        piece = self._chunks[self._number][self._offset : self._offset + count]
        self._offset += -(-count // self._ALIGNMENT) * self._ALIGNMENT
        return piece.view(dtype).view(*shape)

    def reset(self) -> None:
        """Take back every tensor that was given out."""
        self.copies.wait()
        self._number = self._offset = 0

    def shrink(self) -> None:
        """Give up what is more than `KEPT_BYTES`; no tensor is given out at this moment."""
        while self._chunks and sum(map(len, self._chunks)) > self.KEPT_BYTES:
            self._chunks.pop()
            self._pinned.pop()
        self.reset()

    def _has_room(self, count: int, pinned: bool) -> bool:
        room = len(self._chunks[self._number]) - self._offset
        return count <= room and self._pinned[self._number] >= pinned

    def _turn_to_a_chunk_of(self, count: int, pinned: bool) -> None:
        number = self._number + 1 if self._chunks else 0
        fits = number < len(self._chunks) and len(self._chunks[number]) >= count and self._pinned[number] >= pinned
        if not fits:
            # Not of inference mode, whose memory could not be written outside it.
            with torch.inference_mode(False):
                chunk = torch.empty(max(self.CHUNK_BYTES, count), dtype=torch.uint8, pin_memory=pinned)
            self._chunks.insert(number, chunk)
            self._pinned.insert(number, pinned)
        self._number, self._offset = number, 0
