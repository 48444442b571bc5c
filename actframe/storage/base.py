"""StorageBackend, the contract of a file format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from actframe.extension import Extension
from actframe.records.bundle import Bundle

__all__ = ["StorageBackend"]


class StorageBackend(Extension, ABC):
    """Writes a bundle to a file and reads it back, bit for bit.

    A backend knows nothing of models, of records or of crashes: `actframe.storage.files` gives it the path of a
    temporary file and makes what it wrote durable and visible in one step. Two methods and two names are all:

        class NpzBackend(StorageBackend):
            name = "npz"
            suffix = ".npz"

            def write(self, path, bundle): ...
            def read(self, path, names=None): ...
    """

    kind: ClassVar[str] = "storage backend"
    contract_version: ClassVar[int] = 1
    found_by: ClassVar[tuple[str, ...]] = ("name", "suffix")
    suffix: ClassVar[str]
    """How file names end, with the dot. The longest suffix that matches a path wins."""
    reads_lazily: ClassVar[bool] = False
    """Whether `read` gives a `LazyTensors` that reads a tensor when it is looked up, and nothing of the others."""
    refused_dtypes: ClassVar[Collection[str]] = ()
    """Dtypes of activations that the format cannot hold, as `"complex128"`: `write` raises a `StorageError`."""

    @abstractmethod
    def write(self, path: Path, bundle: Bundle) -> str | None:
        """Write `bundle` to `path`, which is new or empty. Tensors are on CPU; they must not be changed.

        A store has one element of each new site and dtype written to find out what the format can hold, and deletes
        the file.

        Raises:
            StorageError: the format cannot hold a tensor's dtype or name; a store then refuses the record.

        Returns:
            The checksum of the file as `actframe.storage.checksums.Checked` gives it, or None: then a store reads the
            file once more to know it.
        """

    @abstractmethod
    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read a bundle: all its metadata, and the tensors in `names` (None: all).

        Tensors come back with the dtype, shape and bits that were written. A format that can read one tensor
        without the others returns a `LazyTensors`. Names that the file does not have are left out: the caller
        says what is missing.

        Raises:
            FormatError: the file is damaged, cut short, or not of this format.
            UnsafeFileError: reading it would run code, or its declared sizes exceed the file.
        """
