"""Checksums of files, which tell a damaged one from a sound one."""

from __future__ import annotations

from pathlib import Path

import xxhash

from actframe.storage.direct import blocks
from actframe.storage.store_folder import storage_errors

__all__ = ["file_checksum"]


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
    return f"xxh3_128:{digest.hexdigest()}"
