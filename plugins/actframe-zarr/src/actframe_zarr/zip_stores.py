"""What Zarr writes and reads through: a zip whose entries are stored as they are, each read by its place in the file.

Zarr's own `ZipStore` reads these files too, and is what others open them with. It reads through `zipfile`, which in
Python 3.11 gets to the middle of an entry by reading all that is before it. And of a chunk that is missing, Zarr makes
one of the fill value.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from actframe import FormatError, PositionalFile, StorageError, UnsafeFileError

__all__ = ["ZipReader", "ZipWriter"]

METADATA = "zarr.json"
_LOCAL_HEADER_BYTES = 30


class _ZipStore(Store):
    """What both have in common. Nothing is ever deleted."""

    supports_deletes = False
    supports_listing = True

    def _keys(self) -> Iterable[str]:
        raise NotImplementedError

    def _get(self, key: str) -> Any:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    async def exists(self, key: str) -> bool:
        """Whether there is something of that name."""
        return key in self._keys()

    async def delete(self, key: str) -> None:
        """Refuse: Zarr deletes what was there before, and nothing was."""
        raise NotImplementedError(key)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of several entries."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def list(self) -> AsyncIterator[str]:
        """Every key."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The keys that begin so."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """What stands directly below a folder."""
        start = prefix.rstrip("/") + "/" if prefix else ""
        names = (key.removeprefix(start).partition("/")[0] for key in self._keys() if key.startswith(start))
        for name in dict.fromkeys(names):
            yield name


class ZipWriter(_ZipStore):
    """Writes chunks as they come, and the metadata, which may change until then, when it is closed.

    Args:
        path: of a new or empty file.
    """

    supports_writes = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._metadata: dict[str, bytes] = {}
        self._sizes: Counter[str] = Counter()
        self._is_open = True

    def size_of(self, path: str) -> int:
        """How many bytes have been written below a path."""
        return self._sizes[path]

    async def set(self, key: str, value: Buffer) -> None:
        """Write a chunk, or note what the metadata is."""
        if key.rpartition("/")[2] == METADATA:
            self._metadata[key] = value.to_bytes()
        else:
            self._write(key, value.to_bytes())

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The metadata; chunks are written once, and whole."""
        content = self._metadata.get(key)
        return None if content is None else prototype.buffer.from_bytes(content)

    def close(self) -> None:
        """Write the metadata and the zip's directory."""
        for key, content in self._metadata.items():
            self._write(key, content)
        self._archive.close()
        super().close()

    def _keys(self) -> Iterable[str]:
        return self._metadata

    def _write(self, key: str, content: bytes) -> None:
        self._sizes[_owner(key)] += len(content)
        # A ZipInfo has a fixed date: the same bundle gives the same bytes.
        self._archive.writestr(zipfile.ZipInfo(key), content)


class ZipReader(_ZipStore):
    """Reads entries, or parts of them, and nothing else. Between two reads no file is open.

    Args:
        path: of the zip.

    Raises:
        FormatError: it is not a zip, damaged or cut short.
        UnsafeFileError: it is not one that a ZipWriter has written.
    """

    supports_writes = False

    def __init__(self, path: Path) -> None:
        super().__init__(read_only=True)
        self._file = PositionalFile(path)
        self._entries = _entries(path, self._file.size)
        self._starts: dict[str, int] = {}
        self._sizes: Counter[str] = Counter()
        for key, entry in self._entries.items():
            self._sizes[_owner(key)] += entry.file_size
        self._is_open = True

    def size_of(self, path: str) -> int:
        """How many bytes there are below a path."""
        return self._sizes[path]

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        raise NotImplementedError(key)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of an entry, or some of them."""
        entry = self._entries.get(key)
        if entry is None:
            if key.rpartition("/")[2] == METADATA:
                return None
            raise FormatError(f"it lacks {key!r}, a part of an array that it says it holds")
        start, stop = _bounds(byte_range, entry.file_size)
        begin = self._begin(entry)
        data = self._file.read(begin + start, begin + stop)
        if (start, stop) == (0, entry.file_size) and zlib.crc32(data.data) != entry.CRC:
            raise FormatError(f"{key!r} is damaged: its bytes are not those that were written")
        return prototype.buffer.from_array_like(data)

    def _keys(self) -> Iterable[str]:
        return self._entries

    def _begin(self, entry: zipfile.ZipInfo) -> int:
        """Where an entry's bytes begin: after a header whose length is its own."""
        if entry.filename not in self._starts:
            begin = entry.header_offset + _LOCAL_HEADER_BYTES
            header = self._file.read(entry.header_offset, begin).tobytes()
            if header[:4] != b"PK\3\4":
                raise FormatError(f"it is damaged where {entry.filename!r} should begin")
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            self._starts[entry.filename] = begin + lengths
        return self._starts[entry.filename]


def _entries(path: Path, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The entries of a zip by name, once their sizes fit the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except StorageError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not path.is_file():
            raise
        raise FormatError(f"it is not a .zarr.zip file, damaged, or cut short: {error}") from error
    entries = {entry.filename: entry for entry in found}
    if len(entries) != len(found):
        raise FormatError("it holds several entries of one name")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in found):
        raise UnsafeFileError("its entries are compressed; Zarr compresses chunks, and a zip stores them as they are")
    if sum(entry.file_size for entry in found) > file_bytes:
        raise UnsafeFileError(f"its entries declare more bytes than the {file_bytes} of the file")
    return entries


def _bounds(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    match byte_range:
        case None:
            return 0, size
        case RangeByteRequest():
            return min(byte_range.start, size), min(byte_range.end, size)
        case OffsetByteRequest():
            return min(byte_range.offset, size), size
        case SuffixByteRequest():
            return max(0, size - byte_range.suffix), size
    raise NotImplementedError(repr(byte_range))


def _owner(key: str) -> str:
    """The path of the array or group that a key belongs to."""
    folder, _, last = key.rpartition("/")
    if last == METADATA:
        return folder
    return folder if last == "c" else key.partition("/c/")[0]
