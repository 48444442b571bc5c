"""Spool: the tensors of a shard in the making, on disk, so that memory does not grow with the size of shards."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import numpy
import torch
from torch import Tensor

from actframe.storage.positional import ByteArray
from actframe.storage.raw import as_tensor, raw_bytes

__all__ = ["Spool"]


class Spool:
    """Pieces of tensors by site, gathered in memory first and in a file from `memory_bytes` on.

    The file has no name where the system can do that, so that nothing of it remains whatever happens. It is used
    again for the next shard: memory of the system that was written before is written several times faster.

    Args:
        folder: where the file is made.
        memory_bytes: how much is gathered before it goes to the file.
    """

    def __init__(self, folder: Path, memory_bytes: int = 8 << 20) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._file: IO[bytes] | None = None
        self._end = 0
        self._pieces: dict[str, list[tuple[int, int]]] = {}
        self._waiting: dict[str, list[Tensor]] = {}
        self._waiting_bytes = 0
        self.size = 0

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Take one more piece for each of some sites.

        Raises:
            OSError: the disk is full, say. Nothing is lost, and the next call tries again.
        """
        for site, tensor in tensors.items():
            self._waiting.setdefault(site, []).append(tensor)
            self._waiting_bytes += tensor.nbytes
            self.size += tensor.nbytes
        if self._waiting_bytes >= self._memory_bytes:
            self._write_down()

    def column(self, site: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """All pieces of one site as one tensor."""
        data = numpy.empty(torch.Size(shape).numel() * dtype.itemsize, numpy.uint8)
        done = 0
        for start, count in self._pieces.get(site, ()):
            assert self._file is not None
            self._file.seek(start)
            _read_into(self._file, data[done : done + count])
            done += count
        if waiting := self._waiting.get(site):
            rest = joined(waiting)
            data[done : done + len(rest)] = rest
        return as_tensor(data, dtype, shape)

    def size_of(self, site: str) -> int:
        """How many bytes one site has."""
        written = sum(count for _, count in self._pieces.get(site, ()))
        return written + sum(tensor.nbytes for tensor in self._waiting.get(site, ()))

    def clear(self) -> None:
        """Forget everything, and begin anew."""
        self._pieces, self._waiting = {}, {}
        self._end = self._waiting_bytes = self.size = 0

    def close(self) -> None:
        """Forget everything, and give the file up."""
        self.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_down(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0, prefix=".actframe-")  # noqa: SIM115
        for site in list(self._waiting):
            data = joined(self._waiting[site])
            self._file.seek(self._end)
            _write(self._file, data)
            self._pieces.setdefault(site, []).append((self._end, len(data)))
            self._end += len(data)
            self._waiting_bytes -= len(data)
            del self._waiting[site]


def joined(tensors: list[Tensor]) -> ByteArray:
    """The bytes of tensors of one dtype, one after the other: those of a single one as they lie in memory."""
    if len(tensors) == 1:
        return raw_bytes(tensors[0])
    if len({tensor.shape[1:] for tensor in tensors}) > 1 or not tensors[0].ndim:
        tensors = [tensor.reshape(-1) for tensor in tensors]
    return raw_bytes(torch.cat(tensors))


def _write(file: IO[bytes], data: ByteArray) -> None:
    rest = data.data
    while len(rest):
        rest = rest[file.write(rest) :]


def _read_into(file: IO[bytes], data: ByteArray) -> None:
    rest = data.data
    while len(rest):
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"the temporary file of a shard in the making lost {len(rest)} bytes")
        rest = rest[count:]
