"""Tensors as arrays of NumPy's, for formats that know no bfloat16 and no float8."""

from __future__ import annotations

import functools
from typing import Any

import numpy
import torch
from torch import Tensor

from actframe.errors import FormatError, StorageError

__all__ = ["narrowed", "widened"]

Array = numpy.ndarray[Any, Any]

_FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)

_KNOWN = {
    *_FLOAT8,
    torch.bfloat16,
    torch.float64,
    torch.float32,
    torch.float16,
    torch.complex128,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
}


def widened(tensor: Tensor) -> Array:
    """The values of a tensor as NumPy can name them: bfloat16 and float8 become float32, all others stay.

    Each value has one float32 and no two the same one, also NaNs of any sign and payload, so that `narrowed` gives back
    every bit. The new bits are zeros, which compression makes vanish as soon as bytes are shuffled.

    Raises:
        StorageError: NumPy has no such dtype, and float32 does not hold its values.

    >>> widened(torch.tensor([1.5, -0.0], dtype=torch.bfloat16))
    array([ 1.5, -0. ], dtype=float32)
    """
    if tensor.dtype not in _KNOWN:
        raise StorageError(
            f"it is {str(tensor.dtype).removeprefix('torch.')}, which neither NumPy nor float32 can hold"
        )
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    # Bits are moved, values never computed with: a processor quiets the NaNs that signal.
    if plain.dtype == torch.bfloat16:
        bits = plain.view(torch.uint16).numpy().astype(numpy.uint32)
        bits <<= 16
        return bits.view(numpy.float32)
    if plain.dtype in _FLOAT8:
        return numpy.asarray(_wide_bits(plain.dtype)[plain.view(torch.uint8).numpy()]).view(numpy.float32)
    return plain.numpy()


def narrowed(array: Array, dtype: torch.dtype) -> Tensor:
    """The tensor that `widened` gave as `array`, bit for bit, in memory of its own.

    Raises:
        FormatError: `array` is not of a tensor of this dtype.
    """
    if dtype == torch.bfloat16:
        bits = _checked(array, numpy.dtype(numpy.float32), dtype).view(numpy.uint32)
        return torch.from_numpy(numpy.array(bits >> 16, numpy.uint16)).view(dtype)
    if dtype in _FLOAT8:
        bits = _checked(array, numpy.dtype(numpy.float32), dtype).view(numpy.uint32)
        wide = _wide_bits(dtype)
        order = numpy.argsort(wide)
        places = numpy.minimum(numpy.searchsorted(wide[order], bits), 255)
        codes = numpy.array(order[places], numpy.uint8)
        if (wide[codes] != bits).any():
            raise FormatError(f"it is said to hold {dtype}, and has values that are none of it")
        return torch.from_numpy(codes).view(dtype)
    if dtype not in _KNOWN:
        raise FormatError(f"it is said to hold {dtype}, which no array does")
    own = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(numpy.array(_checked(array, own, dtype)))


def _checked(array: Array, expected: numpy.dtype[Any], dtype: torch.dtype) -> Array:
    if array.dtype != expected:
        raise FormatError(f"values of {dtype} are stored as {expected}, and these are {array.dtype}")
    return numpy.ascontiguousarray(array).reshape(array.shape)


@functools.cache
def _wide_bits(dtype: torch.dtype) -> Array:
    """The bits of the float32 of each of the 256 values of a float8."""
    codes = torch.arange(256).to(torch.uint8)
    bits = codes.view(dtype).to(torch.float32).view(torch.int32).numpy().view(numpy.uint32)
    if dtype == torch.float8_e5m2:
        # The only one of them with several NaNs of one sign, of which torch makes one.
        own = codes.numpy().astype(numpy.uint32)
        payload = (own & 3) << 21
        bits = numpy.where((own & 0x7C == 0x7C) & (payload > 0), own >> 7 << 31 | 0x7F800000 | payload, bits)
    return bits.astype(numpy.uint32)
