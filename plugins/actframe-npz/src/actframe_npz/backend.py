"""Storage backend `npz`: one NumPy array per site, in an uncompressed zip."""

from __future__ import annotations

import errno
import json
import math
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy
import torch

from actframe import Bundle, FormatError, LazyTensors, StorageBackend, StorageError, UnsafeFileError

__all__ = ["NpzBackend"]

ABOUT = "__actframe__"
"""The array that holds the metadata, and the dtypes that NumPy does not have, as JSON text."""

EXTENSION = ".npy"
LONGEST_HEADER = 10_000

# What NumPy cannot name is stored as unsigned integers of the same bits.
_AS_BITS = {
    "bfloat16": torch.uint16,
    "float8_e4m3fn": torch.uint8,
    "float8_e4m3fnuz": torch.uint8,
    "float8_e5m2": torch.uint8,
    "float8_e5m2fnuz": torch.uint8,
    "float8_e8m0fnu": torch.uint8,
}
_KNOWN = {
    numpy.dtype(code) for code in ("f8", "f4", "f2", "c16", "c8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
}


class NpzBackend(StorageBackend):
    """`.npz` files, which `numpy.load` reads with `allow_pickle=False`; a site is read without the others."""

    name = "npz"
    suffix = ".npz"
    reads_lazily = True

    def write(self, path: Path, bundle: Bundle) -> None:
        """Write the metadata, then one array for each tensor."""
        arrays, dtypes = {}, {}
        for name, tensor in bundle.tensors.items():
            arrays[_checked(name)] = _as_array(name, tensor)
            if _dtype_name(tensor) in _AS_BITS:
                dtypes[name] = _dtype_name(tensor)
        about = json.dumps({"metadata": bundle.metadata, "dtypes": dtypes}).encode()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in {ABOUT: numpy.frombuffer(about, numpy.uint8), **arrays}.items():
                # A fixed date: the same bundle gives the same bytes.
                with archive.open(zipfile.ZipInfo(name + EXTENSION), "w", force_zip64=True) as file:
                    numpy.lib.format.write_array(file, array, allow_pickle=False)

    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read the metadata; arrays are read when they are looked up."""
        with _archive(path) as archive:
            entries = _entries(archive, path.stat().st_size)
            about = _about(archive, entries.pop(ABOUT, None))

        def load(name: str) -> torch.Tensor:
            with _archive(path) as archive:
                return _tensor(_array(archive, entries[name]), about["dtypes"].get(name))

        return Bundle(
            LazyTensors([name for name in entries if names is None or name in names], load), about["metadata"]
        )


def _checked(name: str) -> str:
    if name == ABOUT or name.endswith(EXTENSION) or "\0" in name:
        raise StorageError(f"an array of an .npz file cannot be called {name!r}; rename it")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"an array of an .npz file cannot be called {name!r}: {error}") from error
    return name


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _as_array(name: str, tensor: torch.Tensor) -> numpy.ndarray[Any, Any]:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    bits = _AS_BITS.get(_dtype_name(tensor))
    try:
        return plain.view(bits).numpy() if bits is not None else plain.numpy()
    except (TypeError, RuntimeError) as error:
        raise StorageError(f"{name!r} is {_dtype_name(tensor)}, which .npz files cannot hold: {error}") from error


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip, closed again at the end; what a damaged one makes zipfile and NumPy raise becomes a FormatError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except StorageError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise FormatError(f"it is not an .npz file, damaged, or cut short: {error}") from error
    except OSError as error:
        # Where a damaged zip leads to before the file's beginning.
        if error.errno != errno.EINVAL:
            raise
        raise FormatError("it is damaged: its directory leads out of the file") from error


def _entries(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The arrays of a zip by name, once their sizes fit the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(EXTENSION)
        if name == entry.filename or name in entries:
            raise FormatError(f"it holds {entry.filename!r:.80}, which is not an array, or is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnsafeFileError(f"its array {name!r:.80} is compressed; only files of numpy.savez are read")
        entries[name] = entry
    total = sum(entry.file_size for entry in entries.values())
    if total > file_bytes:
        raise UnsafeFileError(f"its arrays declare {total} bytes, and the file has {file_bytes}")
    return entries


def _about(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None) -> dict[str, dict[str, Any]]:
    """The metadata and dtypes; both empty where the file is not of actframe's."""
    if entry is None:
        return {"metadata": {}, "dtypes": {}}
    try:
        about = json.loads(_array(archive, entry).tobytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"its array {ABOUT} is not JSON text: {error}") from error
    if not isinstance(about, dict) or not all(isinstance(about.get(key), dict) for key in ("metadata", "dtypes")):
        raise FormatError(f"its array {ABOUT} does not hold metadata and dtypes")
    return about


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> numpy.ndarray[Any, Any]:
    """One array, whose header is checked against the size of its entry before its elements are read."""
    with archive.open(entry.filename) as file:
        if (found := archive.getinfo(entry.filename)).CRC != entry.CRC or found.file_size != entry.file_size:
            raise StorageError("the file was changed or replaced after it was opened; load it again")
        shape, fortran, dtype = _header(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype not in _KNOWN:
            raise UnsafeFileError(f"an array has the dtype {dtype}, which is not a plain little-endian number")
        if any(length < 0 for length in shape) or size != entry.file_size - file.tell():
            raise UnsafeFileError(
                f"an array of shape {shape} and dtype {dtype} takes {size} bytes, and "
                f"{entry.file_size - file.tell()} are there"
            )
        data = file.read()
    flat = numpy.frombuffer(data, dtype).copy()
    return flat.reshape(shape[::-1]).T.copy() if fortran else flat.reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, numpy.dtype[Any]]:
    version = numpy.lib.format.read_magic(file)
    read = {(1, 0): numpy.lib.format.read_array_header_1_0, (2, 0): numpy.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise FormatError(f"an array is in version {version} of NumPy's format; versions 1.0 and 2.0 are read")
    shape, fortran, dtype = read(file, max_header_size=LONGEST_HEADER)
    return shape, fortran, dtype


def _tensor(array: numpy.ndarray[Any, Any], dtype: object) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if dtype is None:
        return tensor
    if not isinstance(dtype, str) or _AS_BITS.get(dtype) != tensor.dtype:
        raise FormatError(f"an array of {array.dtype} is said to hold {dtype!r:.80}")
    return tensor.view(getattr(torch, dtype))
