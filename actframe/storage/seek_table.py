"""The seek table of a seekable zstd file: the skippable frame at its end that lists the sizes of all others.

Its layout is that of the "Zstandard Seekable Format" 0.1.0 of the zstd project, with checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from actframe.errors import FormatError, UnsafeFileError
from actframe.storage.positional import PositionalFile

__all__ = ["EMPTY_CHECKSUM", "SKIPPABLE", "FrameEntry", "decode_table", "encode_table", "table_bytes"]

SKIPPABLE = struct.Struct("<II")
"""How a skippable frame begins: its magic number, and the size of the rest."""

EMPTY_CHECKSUM = 0x51D8E999
"""The checksum of a frame that expands to nothing: the low half of XXH64 of no bytes."""

_ENTRY = struct.Struct("<III")
_FOOTER = struct.Struct("<IBI")
_MAGIC = 0x184D2A5E
_FOOTER_MAGIC = 0x8F92EAB1
_WITH_CHECKSUMS = 0x80
_FRAMING = SKIPPABLE.size + _FOOTER.size
# Enough for three hundred frames in a single read.
_TAIL_BYTES = 4096


class FrameEntry(NamedTuple):
    """One frame: its bytes in the file, the bytes it expands to, and the low half of their XXH64."""

    size: int
    content_size: int
    checksum: int


def table_bytes(count: int) -> int:
    """The size of the table of `count` frames."""
    return _FRAMING + count * _ENTRY.size


def encode_table(entries: Sequence[FrameEntry]) -> bytes:
    """The whole skippable frame that ends the file."""
    start = SKIPPABLE.pack(_MAGIC, table_bytes(len(entries)) - SKIPPABLE.size)
    footer = _FOOTER.pack(len(entries), _WITH_CHECKSUMS, _FOOTER_MAGIC)
    return start + b"".join(_ENTRY.pack(*entry) for entry in entries) + footer


def decode_table(file: PositionalFile) -> list[FrameEntry]:
    """The table of a file, whose frames add up to the file.

    Raises:
        FormatError: there is no table, or it does not fit the file.
        UnsafeFileError: it declares more frames than the file could hold.
    """
    if file.size < _FRAMING:
        raise FormatError(f"it has {file.size} bytes, too few for a seekable zstd file: damaged, or cut short")
    tail = file.read(max(0, file.size - _TAIL_BYTES), file.size).tobytes()
    count, flags, magic = _FOOTER.unpack(tail[-_FOOTER.size :])
    if magic != _FOOTER_MAGIC:
        raise FormatError(
            "it does not end in a seek table: cut short, or a plain zstd file "
            "(`zstd -d` turns that into what the safetensors backend may read)"
        )
    size = table_bytes(count)
    if flags != _WITH_CHECKSUMS or size > file.size:
        raise UnsafeFileError(f"its seek table, with flags {flags:#x}, declares {count} frames in {file.size} bytes")
    table = tail[-size:] if size <= len(tail) else file.read(file.size - size, file.size).tobytes()
    if table[: SKIPPABLE.size] != SKIPPABLE.pack(_MAGIC, size - SKIPPABLE.size):
        raise FormatError("its seek table does not begin where it should: damaged")
    entries = [FrameEntry(*fields) for fields in _ENTRY.iter_unpack(table[SKIPPABLE.size : -_FOOTER.size])]
    if sum(entry.size for entry in entries) + size != file.size:
        raise FormatError("the frames of its seek table do not add up to the file: damaged, or cut short")
    return entries
