"""Copies from a CUDA device into pinned memory, made beside the model while it goes on computing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Copies"]

_cuda: Any = torch.cuda  # torch leaves its streams and events untyped


@dataclass(frozen=True)
class _Copy:
    """One copy on its way: what it reads from on the device, and the event that says that it has arrived."""

    source: Tensor
    event: Any


class Copies:
    """Copies that were begun and may not have arrived yet.

    Each reads from a copy on the device, made in the model's own order of work: the model may change its tensors in
    place as soon as its hook returns, and what was captured must not change with them. Copying on the device costs
    next to nothing beside the way to the CPU.
    """

    WAITING_BYTES = 256 << 20
    """How much of the device's memory copies on their way may take; past this the program waits for the oldest."""

    def __init__(self) -> None:
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0
        self._streams: dict[torch.device, Any] = {}

    def begin(self, target: Tensor, rows: Tensor) -> None:
        """Begin to copy rows of a CUDA device into pinned memory, which must not be read before `wait`."""
        with torch.no_grad():
            source = rows.clone(memory_format=torch.contiguous_format)
        side = self._streams.get(rows.device)
        if side is None:
            side = self._streams[rows.device] = _cuda.Stream(rows.device)
        side.wait_stream(_cuda.current_stream(rows.device))
        with _cuda.stream(side):
            target.copy_(source, non_blocking=True)
            arrived = _cuda.Event()
            arrived.record(side)
        self._waiting.append(_Copy(source, arrived))
        self._bytes += source.nbytes
        while self._waiting and (self._bytes > self.WAITING_BYTES or self._waiting[0].event.query()):
            self._finish_oldest()

    def wait(self) -> None:
        """Return when every copy has arrived."""
        while self._waiting:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        # Its source is held until here, so that the device's memory is not given away while it is read.
        oldest = self._waiting.popleft()
        oldest.event.synchronize()
        self._bytes -= oldest.source.nbytes
