"""Bundles as a stream in safetensors' layout, which `.safetensors` holds plainly and `.safetensors.zst` compressed.

Two strings of the header's `__metadata__` are ours: `actframe` is the bundle's metadata as JSON, `actframe.planes` maps
those tensors that are stored as byte planes to the dtype they had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from actframe.errors import FormatError
from actframe.records.bundle import Bundle, LazyTensors, facts_of
from actframe.storage import planes, safetensors_header
from actframe.storage.positional import ByteArray
from actframe.storage.raw import as_tensor
from actframe.storage.safetensors_header import DTYPES, LENGTH_BYTES, Entry, Header

__all__ = ["Source", "describe", "read_bundle"]

_METADATA = "actframe"
_PLANES = "actframe.planes"


class Source(Protocol):
    """Where a stream is read from, by offset."""

    @property
    def size(self) -> int:
        """How many bytes the stream has."""

    def read(self, start: int, stop: int) -> ByteArray:
        """The bytes from `start` to `stop`; an array that may be written to is the caller's to keep."""

    def read_parts(self, start: int, stop: int, count: int) -> Sequence[ByteArray]:
        """The bytes from `start` to `stop` as `count` parts of one length."""


def describe(bundle: Bundle, split: Collection[str] = ()) -> Header:
    """The header of a bundle's stream, in which the tensors named in `split` are stored as byte planes."""
    shapes = {}
    split_dtypes = {}
    for name in bundle.tensors:
        kind, shape = facts_of(bundle.tensors, name)
        dtype = safetensors_header.dtype_name(kind, name)
        if name in split:
            split_dtypes[name] = dtype
            dtype, shape = "U8", (planes.plane_count(kind), *shape)
        shapes[name] = (dtype, shape)
    metadata = {_METADATA: json.dumps(bundle.metadata)}
    if split_dtypes:
        metadata[_PLANES] = json.dumps(split_dtypes)
    return Header(safetensors_header.arrange(shapes), metadata)


def read_bundle(source: Source, names: Collection[str] | None = None) -> Bundle:
    """The bundle of a stream, whose tensors are read when they are looked up and own their memory.

    Raises:
        FormatError: the stream is not in this layout.
        UnsafeFileError: its header contradicts itself or the size of the stream.
    """
    length = safetensors_header.decode_length(source.read(0, min(LENGTH_BYTES, source.size)).tobytes(), source.size)
    begin = LENGTH_BYTES + length
    header = safetensors_header.decode(source.read(LENGTH_BYTES, begin).tobytes(), source.size - begin)
    content = _Content(source, begin, header.entries, _split_dtypes(header))
    wanted = [name for name in header.entries if names is None or name in names]
    view = content.view if hasattr(source, "view") else None
    tensors = LazyTensors(wanted, content.load, facts=content.facts, rows=content.rows, view=view)
    return Bundle(tensors, _json_object(header, _METADATA))


@dataclass(frozen=True)
class _Content:
    """The tensors of a stream.

    Attributes:
        source: what they are read from.
        begin: where the header ends.
        entries: of the header.
        split: the dtype of those tensors that are stored as planes.
    """

    source: Source
    begin: int
    entries: Mapping[str, Entry]
    split: Mapping[str, str]

    def facts(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of a tensor."""
        entry = self.entries[name]
        if name in self.split:
            return DTYPES[self.split[name]], entry.shape[1:]
        return DTYPES[entry.dtype], entry.shape

    def load(self, name: str) -> Tensor:
        """A tensor, whole."""
        shape = self.facts(name)[1]
        return self._elements(name, 0, math.prod(shape), shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """The rows from `start` to `stop`, as far as there are any: what lies behind them is another tensor."""
        length, *rest = self.facts(name)[1]
        start, stop = min(start, length), min(stop, length)
        width = math.prod(rest)
        return self._elements(name, start * width, stop * width, (stop - start, *rest))

    def view(self, name: str) -> Tensor:
        """A tensor in the file's own memory."""
        dtype, shape = self.facts(name)
        entry = self.entries[name]
        data: ByteArray = self.source.view(self.begin + entry.start, self.begin + entry.stop)  # type: ignore[attr-defined]
        return as_tensor(data, dtype, shape)

    def _elements(self, name: str, start: int, stop: int, shape: Sequence[int]) -> Tensor:
        dtype, whole = self.facts(name)
        begin = self.begin + self.entries[name].start
        if name not in self.split:
            size = dtype.itemsize
            return as_tensor(self.source.read(begin + start * size, begin + stop * size), dtype, shape)
        count, length = planes.plane_count(dtype), math.prod(whole)
        if stop - start == length:
            pieces = self.source.read_parts(begin, begin + count * length, count)
        else:
            pieces = [self.source.read(at + start, at + stop) for at in range(begin, begin + count * length, length)]
        return planes.join(pieces, dtype, shape)


def _split_dtypes(header: Header) -> dict[str, str]:
    split = _json_object(header, _PLANES)
    for name, dtype in split.items():
        entry = header.entries.get(name)
        if entry is None or not _is_split(entry, dtype):
            raise FormatError(f"{_PLANES} says that {name!r:.80} holds the planes of {dtype!r:.80}, and it does not")
    return split


def _is_split(entry: Entry, dtype: Any) -> bool:
    if not isinstance(dtype, str) or dtype not in DTYPES or entry.dtype != "U8":
        return False
    count = planes.plane_count(DTYPES[dtype])
    return count > 1 and entry.shape[:1] == (count,)


def _json_object(header: Header, key: str) -> dict[str, Any]:
    try:
        value = json.loads(header.metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{key!r} of its metadata is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{key!r} of its metadata is not a JSON object")
    return value
