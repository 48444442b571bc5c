"""PositionalFile: parts of a file, read by their offset."""

from __future__ import annotations

import os
from pathlib import Path

import numpy

from actframe.errors import FormatError, StorageError

__all__ = ["ByteArray", "PositionalFile"]

ByteArray = numpy.ndarray[tuple[int], numpy.dtype[numpy.uint8]]


class PositionalFile:
    """A regular file, opened anew for each read.

    Nothing stays open or mapped between reads: a thousand lazy records hold no file descriptor, and a file that is
    cut short meanwhile is an error where a memory map would end the process with SIGBUS. What makes that safe is
    that every read checks that the file is still the one that was opened first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb", buffering=0) as file:
            self._identity = _identity(file.fileno())

    @property
    def size(self) -> int:
        """The file's size in bytes when it was opened."""
        return self._identity[2]

    def read(self, start: int, stop: int) -> ByteArray:
        """The bytes from `start` to `stop`, which must lie within the file."""
        if not 0 <= start <= stop <= self.size:
            raise FormatError(f"bytes {start} to {stop} were asked for, and the file has {self.size}")
        data = numpy.empty(stop - start, numpy.uint8)
        self.read_into(start, data.data)
        return data

    def read_parts(self, start: int, stop: int, count: int) -> list[ByteArray]:
        """The bytes from `start` to `stop` as `count` parts of one length."""
        return list(self.read(start, stop).reshape(count, -1))

    def view(self, start: int, stop: int) -> ByteArray:
        """The bytes from `start` to `stop`, mapped into memory: for reading in passing, not for keeping."""
        if not 0 <= start < stop <= self.size:
            return self.read(start, stop)
        with open(self.path, "rb", buffering=0) as file:
            self._check(file.fileno())
            # Private to this process, because torch takes no memory that may not be written to.
            return numpy.memmap(file, numpy.uint8, "c", offset=start, shape=(stop - start,))

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `start` on.

        Raises:
            FormatError: the file ends before the buffer is full.
            StorageError: the file was changed or replaced since it was opened.
        """
        with open(self.path, "rb", buffering=0) as file:
            self._check(file.fileno())
            file.seek(start)
            done = 0
            while done < len(buffer):
                count = file.readinto(buffer[done:])
                if not count:
                    raise FormatError(f"it ends at byte {start + done}, where {len(buffer) - done} more were expected")
                done += count

    def _check(self, descriptor: int) -> None:
        if _identity(descriptor) != self._identity:
            raise StorageError("the file was changed or replaced after it was opened; load it again")


def _identity(descriptor: int) -> tuple[int, int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
