"""Storage backend `safetensors`: one tensor per site, the metadata as one JSON string."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from actframe.records.bundle import Bundle
from actframe.storage import safetensors_header, stream
from actframe.storage.base import StorageBackend
from actframe.storage.checksums import Checked
from actframe.storage.direct import writing
from actframe.storage.positional import PositionalFile
from actframe.storage.raw import raw_bytes

__all__ = ["SafetensorsBackend"]


class SafetensorsBackend(StorageBackend):
    """`.safetensors` files, which every safetensors library reads; a site is read without the others."""

    name = "safetensors"
    suffix = ".safetensors"
    reads_lazily = True
    refused_dtypes = ("complex128",)

    def write(self, path: Path, bundle: Bundle) -> str:
        """Write the header, then each tensor's memory as it is."""
        header = stream.describe(bundle)
        text = safetensors_header.encode(header)
        with writing(path, header.data_bytes) as plain:
            file = Checked(plain)
            file.write(text)
            for name in sorted(header.entries, key=lambda name: header.entries[name].start):
                file.write(raw_bytes(bundle.tensors[name]).data)
        return file.checksum

    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read the header; tensors are read when they are looked up."""
        return stream.read_bundle(PositionalFile(path), names)
