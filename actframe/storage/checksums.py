"""Checksums of files, which tell a damaged one from a sound one."""

from __future__ import annotations

from pathlib import Path

import xxhash

from actframe.records.bundle import Bundle
from actframe.storage.base import StorageBackend
from actframe.storage.direct import Writable, blocks
from actframe.storage.store_folder import storage_errors

__all__ = ["Checked", "file_checksum", "write_checked"]

_METHOD = "xxh3_128:"


class Checked:
    """Writes to a file, and knows the checksum of what it wrote: what a backend returns, and nobody has to read again.

    Args:
        file: nothing else may write to it.
    """

    def __init__(self, file: Writable) -> None:
        self._file = file
        self._digest = xxhash.xxh3_128()

    def write(self, content: bytes | memoryview, /) -> None:
        """Write all of it."""
        self._file.write(content)
        self._digest.update(content)

    @property
    def checksum(self) -> str:
        """As `file_checksum` will give it."""
        return _METHOD + self._digest.hexdigest()


def file_checksum(path: Path) -> str:
    """The XXH3 hash of a file's bytes in 128 bits: `xxh3_128:` and 32 hexadecimal digits.

    A large file is judged by what the disk holds, not by what the system remembers of it. The hash keeps up with the
    disk, and finds any damage that happens by itself. It is no proof against someone who forges a file on purpose.

    Raises:
        StorageError: the file cannot be read.
    """
    digest = xxhash.xxh3_128()
    with storage_errors(f"cannot read {path}"):
        for block in blocks(path):
            digest.update(block)
    return _METHOD + digest.hexdigest()


def write_checked(backend: StorageBackend, path: Path, bundle: Bundle) -> str:
    """Write a bundle, and know the checksum of the file."""
    told = backend.write(path, bundle)
    return told if isinstance(told, str) and told.startswith(_METHOD) else file_checksum(path)
