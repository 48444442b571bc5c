"""The checksum of a file, which tells whether a bit of it has changed since it was written."""

from __future__ import annotations

from pathlib import Path

import xxhash

__all__ = ["file_checksum"]

_BLOCK_BYTES = 1 << 20


def file_checksum(path: Path) -> str:
    """`xxh3_128:` and 32 hex digits. It guards against accidents, not against somebody who wants to deceive."""
    checksum = xxhash.xxh3_128()
    block = bytearray(_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            checksum.update(memoryview(block)[:count])
    return f"xxh3_128:{checksum.hexdigest()}"
