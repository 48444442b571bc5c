"""The header of a safetensors file: what is in it, and where. Written and read here, and believed only once checked.

A safetensors file is the length of its header (8 bytes, little-endian), the header (JSON), and the tensors' bytes
without gaps. Its own library accepts duplicate keys and forgets the order of names; this module does neither.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from actframe.errors import FormatError, StorageError, UnsafeFileError

__all__ = ["DTYPES", "Entry", "Header", "arrange", "decode", "decode_length", "dtype_name", "encode"]

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes that both safetensors and torch have, by their names in the header."""

LENGTH_BYTES = 8
METADATA_KEY = "__metadata__"

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Beyond this the safetensors library refuses to read a header.
_LONGEST = 100_000_000
_LARGEST = 2**63


@dataclass(frozen=True)
class Entry:
    """One tensor: its dtype by the header's name, its shape, and its bytes, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """The entries by name, in the order of the header, and the strings of `__metadata__`."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_bytes(self) -> int:
        """The size of all entries."""
        return max((entry.stop for entry in self.entries.values()), default=0)


def dtype_name(dtype: torch.dtype, tensor: str) -> str:
    """The header's name of a dtype.

    Raises:
        StorageError: safetensors has no such dtype; the message names the tensor and those there are.
    """
    if dtype not in _NAMES:
        known = ", ".join(str(known).removeprefix("torch.") for known in _NAMES)
        raise StorageError(
            f"{tensor!r} is {str(dtype).removeprefix('torch.')}, which safetensors cannot hold; it can hold {known}; "
            f"convert the tensor, or save as .pkl"
        )
    return _NAMES[dtype]


def arrange(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Entry]:
    """Entries for tensors of these dtypes and shapes, in the order given.

    Their bytes are laid out by falling element size, so that each tensor starts at a multiple of its own.
    """
    placed: dict[str, Entry] = {}
    offset = 0
    for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: -DTYPES[item[1][0]].itemsize):
        size = math.prod(shape) * DTYPES[dtype].itemsize
        placed[name] = Entry(dtype, shape, offset, offset + size)
        offset += size
    return {name: placed[name] for name in shapes}


def encode(header: Header) -> bytes:
    """The length and the header, padded with spaces to a multiple of 8 bytes.

    Raises:
        StorageError: a name that the header cannot hold, or a header that is too long to be read again.
    """
    fields: dict[str, Any] = {METADATA_KEY: dict(header.metadata)} if header.metadata else {}
    for name, entry in header.entries.items():
        if name == METADATA_KEY:
            raise StorageError(f"a tensor cannot be called {name!r} in a safetensors file; rename it")
        fields[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.stop],
        }
    try:
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"a name holds characters that are not Unicode text: {error}") from error
    text += b" " * (-len(text) % LENGTH_BYTES)
    if len(text) > _LONGEST:
        raise StorageError(f"names and metadata take {len(text)} bytes; a safetensors header may take {_LONGEST}")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def decode_length(start: bytes, file_bytes: int) -> int:
    """The length of the header, from the first 8 bytes of a file of `file_bytes`.

    Raises:
        FormatError: the file is too short to be a safetensors file.
        UnsafeFileError: the header is declared longer than the file, or than any reader takes.
    """
    if len(start) < LENGTH_BYTES:
        raise FormatError(f"it has {file_bytes} bytes, too few for a safetensors file: damaged, or cut short")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > min(file_bytes - LENGTH_BYTES, _LONGEST):
        raise UnsafeFileError(
            f"it declares a header of {length} bytes and has {file_bytes} in all: "
            f"not a safetensors file, damaged, or cut short"
        )
    return length


def decode(text: bytes, data_bytes: int) -> Header:
    """The header, checked against the `data_bytes` that follow it.

    Raises:
        FormatError: it is no such header.
        UnsafeFileError: it contradicts itself or the size of the data.
    """
    try:
        fields = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"the header is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise FormatError("the header is not a JSON object")
    metadata = fields.pop(METADATA_KEY, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{METADATA_KEY} of the header does not map strings to strings")
    entries = {name: _entry(name, value) for name, value in fields.items()}
    _check_cover(entries, data_bytes)
    return Header(entries, metadata)


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"the header describes {name!r} by {value!r:.80}, not by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"{name!r} has the dtype {dtype!r:.80}; this version reads {', '.join(DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise UnsafeFileError(f"{name!r} has the shape {shape!r:.80} and the offsets {offsets!r:.80}")
    if math.prod(max(size, 1) for size in shape) >= _LARGEST:
        raise UnsafeFileError(f"{name!r} has the shape {shape!r:.80}, more elements than can be counted")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        raise UnsafeFileError(
            f"{name!r} of dtype {dtype} and shape {shape!r:.80} takes {size} bytes, and its offsets are {offsets}"
        )
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _LARGEST for value in values)


def _check_cover(entries: Mapping[str, Entry], data_bytes: int) -> None:
    """Check that the tensors lie side by side, each byte of the data in exactly one of them."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise UnsafeFileError(f"{name!r} starts at byte {entry.start} of the data, where {end} was expected")
        end = entry.stop
    if end != data_bytes:
        raise UnsafeFileError(f"its tensors take {end} bytes, and {data_bytes} follow the header: damaged or cut short")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise FormatError(f"the header names {next(name for name in names if names.count(name) > 1)!r:.80} twice")
    return fields
