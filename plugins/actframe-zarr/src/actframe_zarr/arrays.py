"""One tensor, one Zarr array: how it is cut into chunks, and what is refused when it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from actframe import FormatError, StorageError, UnsafeFileError, narrowed, widened
from actframe_zarr.zip_stores import ZipReader, ZipWriter

__all__ = ["DTYPE", "dtype_of", "open_array", "read_rows", "write_array", "write_tensor"]

DTYPE = "torch_dtype"
"""The attribute that says which dtype the values of an array had."""

CHUNK_BYTES = 1 << 20
SHARD_BYTES = 64 << 20

# What a file declares beyond this is believed only up to so many times its own bytes.
_BELIEVED_BYTES, _MOST_TIMES = 64 << 20, 1000
_PADDING = "padding"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_CODECS = {"bytes", "blosc", "crc32c", "sharding_indexed"}


def write_tensor(store: ZipWriter, path: str, tensor: torch.Tensor, axes: Sequence[str]) -> None:
    """Write a tensor, some rows of it at a time: what they become on the way takes memory.

    Raises:
        StorageError: neither NumPy nor Zarr has its dtype.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    stored = widened(tensor[:0] if tensor.shape else tensor).dtype
    array = _create(store, path, tuple(tensor.shape), stored, axes, {DTYPE: dtype})
    if not tensor.shape:
        array[...] = widened(tensor)
    for start, stop in _blocks(array):
        array[start:stop] = widened(tensor[start:stop])
    declared = math.prod(array.shape) * stored.itemsize
    if (lacking := declared // _MOST_TIMES - store.size_of(path)) > 0 and declared > _BELIEVED_BYTES:
        # Of one value alone, it has become so small that nobody would believe it.
        array.update_attributes({_PADDING: " " * lacking})


def write_array(store: ZipWriter, path: str, values: Any, axes: Sequence[str]) -> None:
    """Write an array of numbers, truth values or texts, which nobody reads back into a tensor."""
    dtype = "string" if values.dtype == object else values.dtype
    array = _create(store, path, values.shape, dtype, axes, {})
    if len(values):
        array[...] = values


def open_array(store: ZipReader, path: str) -> zarr.Array[Any]:
    """The array of a tensor, whose values are not read yet.

    Raises:
        FormatError: it is not there, or is not one that `write_tensor` wrote.
        UnsafeFileError: it declares a size that the file does not bear out.
    """
    array = zarr.open_array(store, path=path, mode="r", zarr_format=3)
    if strange := _codecs(array.metadata.to_dict()["codecs"]) - _CODECS:
        raise UnsafeFileError(f"{path!r} is encoded by {', '.join(sorted(strange))}, which is not used here")
    dtype_of(array)
    declared, there = math.prod(array.shape) * array.dtype.itemsize, store.size_of(path)
    unit = math.prod(array.shards or array.chunks) * array.dtype.itemsize
    if max(declared, unit) > max(_BELIEVED_BYTES * 2, there * _MOST_TIMES * 2):
        raise UnsafeFileError(f"{path!r} declares {max(declared, unit)} bytes, and takes {there} in the file")
    return array


def dtype_of(array: zarr.Array[Any]) -> torch.dtype:
    """The dtype that the values of an array had."""
    name = array.attrs.get(DTYPE)
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise FormatError(f"{array.path!r} is said to hold {name!r:.80}, which is no dtype")
    return dtype


def read_rows(array: zarr.Array[Any], start: int, stop: int) -> torch.Tensor:
    """Some rows of an array, or all there is of one without rows, in memory of their own."""
    dtype = dtype_of(array)
    if not array.shape:
        return narrowed(numpy.asarray(array[...]), dtype)
    rows = torch.empty(max(0, stop - start), *array.shape[1:], dtype=dtype)
    for begin, end in _blocks(array):
        begin, end = max(begin, start), min(end, stop)  # noqa: PLW2901
        if begin < end and rows.numel():
            rows[begin - start : end - start] = narrowed(numpy.asarray(array[begin:end]), dtype)
    return rows


def _create(
    store: ZipWriter, path: str, shape: tuple[int, ...], dtype: Any, axes: Sequence[str], attributes: dict[str, Any]
) -> zarr.Array[Any]:
    itemsize = getattr(dtype, "itemsize", 64)
    chunks = _filled(shape, (1,) * len(shape), CHUNK_BYTES // itemsize)
    shards = _filled(shape, chunks, SHARD_BYTES // CHUNK_BYTES)
    shuffled = [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=itemsize), Crc32cCodec()]
    try:
        return zarr.create_array(
            store,
            name=path,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            shards=None if shards == chunks else shards,
            compressors="auto" if dtype == "string" else shuffled,
            dimension_names=axes,
            attributes=attributes,
            # A chunk that is not there is one that got lost, never one of zeros.
            config={"write_empty_chunks": True},
        )
    except (TypeError, ValueError) as error:
        raise StorageError(f"Zarr has no array of {dtype}: {error}") from error


def _filled(shape: tuple[int, ...], unit: tuple[int, ...], count: int) -> tuple[int, ...]:
    """So many units at most, the last axis first."""
    sizes: list[int] = []
    for length, each in zip(reversed(shape), reversed(unit), strict=True):
        times = max(1, min(math.ceil(length / each), count))
        sizes.insert(0, each * times)
        count //= times
    return tuple(sizes)


def _blocks(array: zarr.Array[Any]) -> list[tuple[int, int]]:
    """The rows from where to where are together in the file."""
    if not array.shape:
        return []
    step = (array.shards or array.chunks)[0]
    rows = array.shape[0] if math.prod(array.shape) else 0
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]


def _codecs(described: Any) -> set[str]:
    """The names of codecs, and of those within them."""
    names: set[str] = set()
    for codec in described:
        names.add(codec["name"])
        inner = codec.get("configuration") or {}
        names |= _codecs([*inner.get("codecs", ()), *inner.get("index_codecs", ())])
    return names
