"""Checksums of every byte that Arrow is given, in the file itself: on a damaged one it may end the whole process.

Between the last row group and the footer of a Parquet file may be anything, as readers go by offsets. Here it is

    n x 4 bytes   the CRC-32 of each column chunk, those of a row group together, in the order of the columns
    4 bytes       the CRC-32 of these and of the footer
    4 bytes       n
    8 bytes       `actframe`

and then, as in every Parquet file, the footer, its length in 4 bytes, and `PAR1`. All numbers are little-endian.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pyarrow
from pyarrow import parquet

from actframe import FormatError, PositionalFile, StorageError

__all__ = ["SealedFile", "seal"]

_MAGIC, _END = b"actframe", b"PAR1"
_HEAD = struct.Struct("<II8s")
_TAIL = struct.Struct("<I4s")


def seal(path: Path) -> None:
    """Put the checksums into a Parquet file that has just been written."""
    with open(path, "r+b") as file:
        size = file.seek(-_TAIL.size, io.SEEK_END)
        length, _ = _TAIL.unpack(file.read())
        file.seek(size - length)
        footer = file.read()
        metadata = parquet.read_metadata(pyarrow.BufferReader(_END + footer))
        sums = bytearray()
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                start, stop = _bounds(metadata, group, column)
                file.seek(start)
                sums += struct.pack("<I", zlib.crc32(file.read(stop - start)))
        file.seek(size - length)
        whole = zlib.crc32(footer[:length], zlib.crc32(sums))
        file.write(sums + _HEAD.pack(whole, len(sums) // 4, _MAGIC) + footer)


class SealedFile:
    """A Parquet file with its checksums, of which columns are read one by one. Between two reads no file is open.

    Attributes:
        metadata: the file's.

    Raises:
        FormatError: it is no such file, damaged, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self._file = PositionalFile(path)
        self.size = self._file.size
        end = max(0, self.size - _TAIL.size)
        tail = self._file.read(end, self.size).tobytes()
        length, magic = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
        begin = end - length
        if magic != _END or begin < _HEAD.size:
            raise FormatError("it is not a Parquet file, or was cut short")
        whole, count, magic = _HEAD.unpack(self._file.read(begin - _HEAD.size, begin).tobytes())
        if magic != _MAGIC or begin - _HEAD.size - 4 * count < 0:
            raise FormatError("it has no checksums of this backend: it is an export, or a table of somebody else's")
        sums = self._file.read(begin - _HEAD.size - 4 * count, begin - _HEAD.size)
        footer = self._file.read(begin, self.size)
        if zlib.crc32(footer.data[:length], zlib.crc32(sums.data)) != whole:
            raise FormatError("its footer is damaged")
        self._sums = numpy.frombuffer(sums.tobytes(), "<u4")
        self._footer = (begin, footer)
        with _refusing():
            self.metadata = parquet.read_metadata(_buffered(self.size, [self._footer]))
            self.schema = self.metadata.schema.to_arrow_schema()
        if len(self._sums) != self.metadata.num_row_groups * self.metadata.num_columns:
            raise FormatError("it has checksums of other columns than its own")

    def read(self, column: int, groups: list[int]) -> Any:
        """The values of a column in some row groups.

        Raises:
            FormatError: their bytes are not those that were written.
        """
        parts = [self._footer, *(self._chunk(column, group) for group in groups)]
        path = self.metadata.schema.column(column).path
        with _refusing(), parquet.ParquetFile(_buffered(self.size, parts), metadata=self.metadata) as source:
            # By its path: columns are also found by what their names begin with.
            table = source.read_row_groups(groups, columns=[path])
            return table.column(self.schema.names[column]).combine_chunks()

    def values(self, column: int, groups: list[int]) -> int:
        """How many values a column declares in some row groups."""
        return sum(self.metadata.row_group(group).column(column).num_values for group in groups)

    def _chunk(self, column: int, group: int) -> tuple[int, Any]:
        start, stop = _bounds(self.metadata, group, column)
        data = self._file.read(start, stop)
        if zlib.crc32(data.data) != self._sums[group * self.metadata.num_columns + column]:
            raise FormatError(f"its column {self.schema.names[column]!r} is damaged in row group {group}")
        return start, data


class _Parts(io.RawIOBase):
    """Some parts of a file, from memory: Arrow asks for no others."""

    def __init__(self, size: int, parts: list[tuple[int, Any]]) -> None:
        super().__init__()
        self._size = size
        self._parts = sorted(parts, key=lambda part: part[0])
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where the next read begins."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as a part goes; what is between parts is zeros, and nobody looks at it."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        for start, data in self._parts:
            if start <= self._at < start + len(data):
                count = min(count, start + len(data) - self._at)
                view[:count] = data[self._at - start : self._at - start + count].data
                break
        else:
            following = min((start for start, _ in self._parts if start > self._at), default=self._size)
            count = min(count, following - self._at)
            view[:count] = bytes(count)
        self._at += count
        return count


def _buffered(size: int, parts: list[tuple[int, Any]]) -> io.BufferedReader:
    return io.BufferedReader(_Parts(size, parts))


def _bounds(metadata: parquet.FileMetaData, group: int, column: int) -> tuple[int, int]:
    """From where to where the bytes of a column chunk are."""
    chunk = metadata.row_group(group).column(column)
    pages = [offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset is not None]
    return min(pages), min(pages) + chunk.total_compressed_size


@contextmanager
def _refusing() -> Iterator[None]:
    """What a file that Arrow cannot read makes it raise becomes a FormatError."""
    try:
        yield
    except (StorageError, MemoryError):
        raise
    except (pyarrow.ArrowException, ValueError, TypeError, KeyError, IndexError, OSError) as error:
        raise FormatError(f"Arrow cannot read it: {error}") from error
