"""Seekable zstd files: independent frames, of which those that hold what is asked for are read.

`zstd -d` reads such a file like any other. Beyond what the seekable format says, this module demands that each frame
has a checksum and declares its size, 1 MiB at most, and that the last frame before the seek table is a skippable one
with the CRC-32 of each frame as it lies in the file. zstd's own checksums cover what a frame expands to; a compressed
frame has bits that make no difference to that, and a changed bit is the sign of a failing disk wherever it is.
"""

from __future__ import annotations

import bisect
import itertools
import struct
import threading
import zlib
from pathlib import Path

import numpy
import zstandard

from actframe.errors import FormatError, UnsafeFileError
from actframe.storage.direct import Writable
from actframe.storage.positional import ByteArray, PositionalFile
from actframe.storage.seek_table import EMPTY_CHECKSUM, SKIPPABLE, FrameEntry, decode_table, encode_table, table_bytes

__all__ = ["FRAME_BYTES", "SeekableReader", "SeekableWriter"]

FRAME_BYTES = 1 << 20
"""The most that one frame expands to."""

EXPANSION = 1000
EXPANSION_FREE_BYTES = 64 << 20
"""A file expands to at most `EXPANSION` times its size, or to `EXPANSION_FREE_BYTES` where that is more."""

_CRC_FRAME_MAGIC = 0x184D2A5D
_BLOCK_BYTES = 1 << 17
# A frame with its size and a checksum, without a window or a dictionary; two more bits tell the length of the size.
_DESCRIPTOR = 0b00_1_0_0_1_00
_DESCRIPTOR_MASK = 0b00_1_1_1_1_11


class SeekableWriter:
    """Writes frames to a binary file, and the tables when it is finished."""

    def __init__(self, file: Writable) -> None:
        self._file = file
        self._entries: list[FrameEntry] = []
        self._crcs: list[int] = []

    def write(self, content: memoryview, compressor: zstandard.ZstdCompressor) -> None:
        """Write 1 to `FRAME_BYTES` bytes as one frame. The compressor must write sizes and checksums, and no window."""
        frame = compressor.compress(content)
        self._file.write(frame)
        self._entries.append(FrameEntry(len(frame), len(content), int.from_bytes(frame[-4:], "little")))
        self._crcs.append(_crc(frame, len(content)))

    def finish(self) -> None:
        """Write the frame of CRCs, and the seek table. Closing the file is the caller's."""
        crcs = struct.pack(f"<{len(self._crcs)}I", *self._crcs)
        content_bytes = sum(entry.content_size for entry in self._entries)
        size = sum(entry.size for entry in self._entries) + SKIPPABLE.size + len(crcs) + table_bytes(len(crcs) // 4 + 1)
        if content_bytes > EXPANSION_FREE_BYTES:
            # Long runs of one value compress further than a reader would believe.
            crcs += bytes(max(0, -(-content_bytes // EXPANSION) - size))
        frame = SKIPPABLE.pack(_CRC_FRAME_MAGIC, len(crcs)) + crcs
        self._file.write(frame)
        self._file.write(encode_table([*self._entries, FrameEntry(len(frame), 0, EMPTY_CHECKSUM)]))


class _Thread(threading.local):
    """What each thread has of its own: a decompressor is costly to make, and cannot be shared."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_thread = _Thread()


class SeekableReader:
    """The content of a seekable file, read by offset.

    Raises:
        FormatError: the file is damaged, cut short, or not such a file.
        UnsafeFileError: it declares more content than a file of its size may.
    """

    def __init__(self, path: Path) -> None:
        self._file = PositionalFile(path)
        self._entries = decode_table(self._file)
        self._begins = list(itertools.accumulate((entry.size for entry in self._entries), initial=0))
        self._content_begins = list(itertools.accumulate((entry.content_size for entry in self._entries), initial=0))
        self._check_sizes()
        self._crcs = self._read_crcs()
        self._latest: tuple[int, bytes] | None = None

    @property
    def size(self) -> int:
        """How many bytes the frames expand to."""
        return self._content_begins[-1]

    def read(self, start: int, stop: int) -> ByteArray:
        """The content from `start` to `stop`, which must lie within it."""
        return self.read_parts(start, stop, 1)[0]

    def read_parts(self, start: int, stop: int, count: int) -> list[ByteArray]:
        """The content from `start` to `stop` as `count` parts of one length, from one read of the file."""
        if not 0 <= start <= stop <= self.size:
            raise FormatError(f"bytes {start} to {stop} of its content were asked for, and it has {self.size}")
        if start == stop:
            return [numpy.empty(0, numpy.uint8) for _ in range(count)]
        first, last = self._frame_at(start), self._frame_at(stop - 1)
        if first == last and self._latest is not None and self._latest[0] == first:
            frames = {first: self._latest[1]}
        else:
            frames = self._read_frames(first, last)
            # Small tensors share a frame, and are usually read one after the other.
            self._latest = (first, frames[first]) if first == last else None
        step = (stop - start) // count
        if self._content_begins[first : last + 2] == list(range(start, stop + 1, step)):
            return [numpy.frombuffer(frame, numpy.uint8) for frame in frames.values()]
        return [self._part(frames, begin, begin + step) for begin in range(start, stop, step)]

    def _part(self, frames: dict[int, bytes], start: int, stop: int) -> ByteArray:
        """The content from `start` to `stop`, a view where it lies in one frame."""
        pieces = []
        for index in range(self._frame_at(start), self._frame_at(stop - 1) + 1):
            begin = self._content_begins[index]
            first = max(0, start - begin)
            count = min(stop - begin, len(frames[index])) - first
            pieces.append(numpy.frombuffer(frames[index], numpy.uint8, count, first))
        return pieces[0] if len(pieces) == 1 else numpy.concatenate(pieces)

    def _frame_at(self, position: int) -> int:
        return bisect.bisect_right(self._content_begins, position) - 1

    def _read_frames(self, first: int, last: int) -> dict[int, bytes]:
        origin = self._begins[first]
        data = self._file.read(origin, self._begins[last + 1]).data
        return {
            index: self._expand(index, data[self._begins[index] - origin : self._begins[index + 1] - origin])
            for index in range(first, last + 1)
        }

    def _expand(self, index: int, frame: memoryview) -> bytes:
        entry = self._entries[index]
        if _crc(frame, entry.content_size) != self._crcs[index]:
            raise FormatError(f"frame {index} is damaged: its bytes do not match their CRC")
        if int.from_bytes(frame[-4:], "little") != entry.checksum:
            raise FormatError(f"frame {index} is damaged: its checksum is not the one in the seek table")
        try:
            # What a frame declares is what zstd allocates, so it is compared before zstd sees the frame.
            declared = zstandard.frame_content_size(frame)
            if declared != entry.content_size or frame[4] & _DESCRIPTOR_MASK != _DESCRIPTOR:
                raise UnsafeFileError(f"frame {index} declares {declared} bytes, the seek table {entry.content_size}")
            content: bytes = _thread.decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError(f"frame {index} is damaged: {error}") from error
        return content

    def _check_sizes(self) -> None:
        *frames, last = self._entries or [FrameEntry(0, 0, 0)]
        if last.content_size != 0 or last.checksum != EMPTY_CHECKSUM or last.size < SKIPPABLE.size:
            raise FormatError("the last frame of its seek table is not that of the CRCs: damaged, or not by actframe")
        if any(not 0 < entry.content_size <= FRAME_BYTES or entry.size < _stored_bytes(0) for entry in frames):
            raise UnsafeFileError(
                f"its seek table declares a frame that is empty, or expands beyond {FRAME_BYTES} bytes"
            )
        if self.size > max(EXPANSION_FREE_BYTES, EXPANSION * self._file.size):
            raise UnsafeFileError(
                f"it declares {self.size} bytes of content and has {self._file.size}; "
                f"no more than {EXPANSION} times as much is believed"
            )

    def _read_crcs(self) -> tuple[int, ...]:
        count = len(self._entries) - 1
        frame = self._file.read(self._begins[-2], self._begins[-1]).tobytes()
        crcs, padding = frame[SKIPPABLE.size :][: 4 * count], frame[SKIPPABLE.size :][4 * count :]
        intact = frame.startswith(SKIPPABLE.pack(_CRC_FRAME_MAGIC, len(crcs) + len(padding)))
        if not intact or len(crcs) != 4 * count or any(padding):
            raise FormatError("its frame of CRCs is damaged")
        return struct.unpack(f"<{count}I", crcs)


def _crc(frame: bytes | memoryview, content_bytes: int) -> int:
    """The CRC-32 of a compressed frame; 0 for one that stores its content, where every bit makes a difference."""
    return 0 if len(frame) == _stored_bytes(content_bytes) else zlib.crc32(frame)


def _stored_bytes(content_bytes: int) -> int:
    """The size of a frame that stores its content in blocks as it is; compressed ones are always smaller."""
    size_bytes = 1 if content_bytes < 256 else 2 if content_bytes < 256 + (1 << 16) else 4
    blocks = max(1, -(-content_bytes // _BLOCK_BYTES))
    return 4 + 1 + size_bytes + 3 * blocks + content_bytes + 4
