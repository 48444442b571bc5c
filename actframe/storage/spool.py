"""Spool: the tensors of a shard in the making, on disk, so that memory does not grow with the size of shards."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy
import torch
from torch import Tensor

from actframe.storage.positional import ByteArray
from actframe.storage.raw import as_tensor, raw_bytes

__all__ = ["MEMORY_BYTES", "Spool"]

MEMORY_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """Pieces of some sites that lie together.

    Attributes:
        records: how many records there are in this part and in all before it.
        pieces: by site: the bytes, in memory; or where they begin in the file, and how many they are.
        stop: where they end, in memory or in the file.
        total: their size.
    """

    records: int
    pieces: Mapping[str, ByteArray | tuple[int, int]]
    stop: int
    total: int

    @property
    def in_memory(self) -> bool:
        """Whether it is not in the file yet."""
        return isinstance(next(iter(self.pieces.values()), None), numpy.ndarray)


class Spool:
    """Pieces of tensors by site, copied to a file; small ones are gathered in a little memory first.

    The file has no name where the system can do that, so that nothing of it remains whatever happens. It is used
    again for the next shard: memory of the system that was written before is written several times faster.

    A record is first placed and then noted. What is placed and not noted is not there, so being interrupted between
    the two costs that record and no other.

    Args:
        folder: where the file is made.
        memory_bytes: smaller records are gathered until they take so much.
    """

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._memory: ByteArray | None = None
        self._file: IO[bytes] | None = None
        # Those in memory stand at the end. Each change is one assignment or one append.
        self._parts: list[Part] = []

    @property
    def records(self) -> int:
        """How many records were noted."""
        return self._parts[-1].records if self._parts else 0

    @property
    def size(self) -> int:
        """How many bytes they have."""
        return self._parts[-1].total if self._parts else 0

    def place(self, tensors: Mapping[str, Tensor]) -> Part:
        """Copy one record's pieces, to be noted before another is placed.

        Raises:
            OSError: the disk is full, say. Nothing of the record is there, and what was before still is.
        """
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size >= self._memory_bytes or self._end(in_memory=True) + size > self._memory_bytes:
            self._empty_memory()
        if size >= self._memory_bytes:
            data = {site: raw_bytes(tensor) for site, tensor in tensors.items()}
            pieces, stop = self._write_down(data, self._end(in_memory=False))
            return Part(self.records + 1, pieces, stop, self.size + size)
        if self._memory is None:
            self._memory = numpy.empty(self._memory_bytes, numpy.uint8)
        views, stop = {}, self._end(in_memory=True)
        start = stop
        for content in _joined(tensors.values()):
            self._memory[start : start + len(content)] = content
            start += len(content)
        for site, tensor in tensors.items():
            views[site] = self._memory[stop : stop + tensor.nbytes]
            stop += tensor.nbytes
        return Part(self.records + 1, views, stop, self.size + size)

    def note(self, part: Part) -> None:
        """Keep what was placed."""
        self._parts.append(part)

    def column(self, site: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """All pieces of one site as one tensor."""
        data = numpy.empty(torch.Size(shape).numel() * dtype.itemsize, numpy.uint8)
        done = 0
        for part in self._parts:
            piece = part.pieces.get(site, ())
            if isinstance(piece, numpy.ndarray):
                data[done : done + len(piece)] = piece
                done += len(piece)
            elif piece:
                start, count = piece
                assert self._file is not None
                self._file.seek(start)
                _read_into(self._file, data[done : done + count])
                done += count
        if done != len(data):
            raise OSError(f"the temporary file of a shard has {done} bytes of {site}, and {len(data)} were expected")
        return as_tensor(data, dtype, shape)

    def size_of(self, site: str) -> int:
        """How many bytes one site has."""
        pieces = [part.pieces[site] for part in self._parts if site in part.pieces]
        return sum(len(piece) if isinstance(piece, numpy.ndarray) else piece[1] for piece in pieces)

    def clear(self) -> None:
        """Forget everything, and begin anew."""
        self._parts = []

    def close(self) -> None:
        """Forget everything, and give file and memory up."""
        self.clear()
        self._memory = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self, *, in_memory: bool) -> int:
        """Where the next part goes."""
        if in_memory:
            return self._parts[-1].stop if self._parts and self._parts[-1].in_memory else 0
        return next((part.stop for part in reversed(self._parts) if not part.in_memory), 0)

    def _empty_memory(self) -> None:
        """Move what is in memory to the file, the pieces of each site together."""
        written = [part for part in self._parts if not part.in_memory]
        if waiting := self._parts[len(written) :]:
            sites = dict.fromkeys(site for part in waiting for site in part.pieces)
            data = {site: numpy.concatenate([p.pieces[site] for p in waiting if site in p.pieces]) for site in sites}
            pieces, stop = self._write_down(data, self._end(in_memory=False))
            self._parts = [*written, Part(self.records, pieces, stop, self.size)]

    def _write_down(self, data: Mapping[str, ByteArray], start: int) -> tuple[dict[str, tuple[int, int]], int]:
        """Write bytes by site from a place in the file on; returns where they are, and where they end."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0, prefix=".actframe-")  # noqa: SIM115
        self._file.seek(start)
        pieces, stop = {}, start
        for site, content in data.items():
            _write(self._file, content)
            pieces[site] = (stop, len(content))
            stop += len(content)
        return pieces, stop


def _joined(tensors: Iterable[Tensor]) -> Iterator[ByteArray]:
    """The bytes of tensors one after the other; those that are alike at once, for one call each would cost more."""
    for _, alike in itertools.groupby(tensors, lambda tensor: (tensor.dtype, tensor.shape[1:], tensor.ndim)):
        first, *others = alike
        yield raw_bytes(torch.cat([first, *others]) if others and first.ndim else first)
        if not first.ndim:
            yield from map(raw_bytes, others)


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
