"""Large files, written and read by the disk itself where it can do that, past the system's memory.

A run writes far more than fits into memory, and reads none of it. Kept there it would push out what others need. And
each page of it would be taken from the system anew, which costs several times the copying, in particular in virtual
machines, whose memory is taken from the host in turn: beside a model on the CPU that is time the model does not have.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy

if sys.platform != "win32":
    import fcntl

__all__ = ["BLOCK_BYTES", "LARGE_BYTES", "DirectWriter", "Writable", "blocks", "writing"]

LARGE_BYTES = 32 << 20
"""Below this, the system's memory is the faster way."""

BLOCK_BYTES = 4 << 20

_PLAIN_BYTES = 1 << 20
_PAGE_BYTES = mmap.PAGESIZE
_DIRECT = getattr(os, "O_DIRECT", 0)


class Writable(Protocol):
    """What is written to."""

    def write(self, content: bytes | memoryview, /) -> object:
        """Write all of it."""


@contextmanager
def writing(path: Path, nbytes: int) -> Iterator[Writable]:
    """Open a file for writing from its beginning; whether it is large is told by about how many bytes it will have."""
    if nbytes < LARGE_BYTES or not _DIRECT:
        # Few large writes: a file system takes them at twice the speed of many that end within a page.
        with open(path, "wb", buffering=_PLAIN_BYTES) as plain:
            yield plain
    else:
        with FileIO(path, "w") as file:
            writer = DirectWriter(file)
            yield writer
            writer.finish()


def blocks(path: Path) -> Iterator[memoryview]:
    """The content of a file, a block at a time; each is valid until the next one."""
    with FileIO(path) as file:
        direct = os.fstat(file.fileno()).st_size >= LARGE_BYTES and _set_direct(file, True)
        buffer = memoryview(mmap.mmap(-1, BLOCK_BYTES))
        while True:
            try:
                count = file.readinto(buffer)
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
                direct = _set_direct(file, False)
                continue
            if not count:
                return
            yield buffer[:count]
            if direct and count % _PAGE_BYTES:
                direct = _set_direct(file, False)


class DirectWriter:
    """Gathers what is written in memory that is aligned as disks want it, and writes that past the system's."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._block = memoryview(mmap.mmap(-1, BLOCK_BYTES))
        self._array = numpy.frombuffer(self._block, numpy.uint8)
        self._used = 0
        self._direct = _set_direct(file, True)

    def write(self, content: bytes | memoryview, /) -> None:
        rest = numpy.frombuffer(content, numpy.uint8)
        while len(rest):
            part = rest[: BLOCK_BYTES - self._used]
            self._array[self._used : self._used + len(part)] = part
            self._used += len(part)
            rest = rest[len(part) :]
            if self._used == BLOCK_BYTES:
                self._write_down()

    def finish(self) -> None:
        """Write what is left: less than a block, and of any length, which only the plain way can."""
        self._direct = _set_direct(self._file, False)
        self._write_down()

    def _write_down(self) -> None:
        rest = self._block[: self._used]
        while len(rest):
            try:
                count = self._file.write(rest)
            except OSError as error:
                # Some file systems say only now that they cannot.
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._direct = _set_direct(self._file, False)
                continue
            rest = rest[count:]
            if self._direct and count % _PAGE_BYTES:
                self._direct = _set_direct(self._file, False)
        self._used = 0


def _set_direct(file: FileIO, wanted: bool) -> bool:
    """Switch between the two ways; returns whether it is now the direct one."""
    if sys.platform == "win32" or not _DIRECT:
        return False
    flags = fcntl.fcntl(file.fileno(), fcntl.F_GETFL)
    try:
        fcntl.fcntl(file.fileno(), fcntl.F_SETFL, flags | _DIRECT if wanted else flags & ~_DIRECT)
    except OSError:
        if not wanted:
            raise
        return False
    return wanted
