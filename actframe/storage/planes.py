"""Byte planes: floating tensors with the exponents, which compress, apart from the fractions, which do not.

The bits of each element are rotated left by one, which puts the sign below the fraction and the exponent on top.
Plane 0 then holds the highest byte of every element, the last plane the lowest. For bfloat16:

    element   s eeeeeeee fffffff
    rotated   eeeeeeee fffffffs        plane 0: eeeeeeee    plane 1: fffffffs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from actframe.storage.positional import ByteArray
from actframe.storage.raw import as_tensor, raw_bytes

__all__ = ["join", "plane_count", "split"]

# Words are put together in steps that fit the cache: then the passes over them cost arithmetic alone.
_STEP = 1 << 16

_SPLIT = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def plane_count(dtype: torch.dtype) -> int:
    """How many planes a tensor of this dtype is stored as: its bytes per element where it is split, else 1."""
    return dtype.itemsize if dtype in _SPLIT else 1


def split(tensor: Tensor, chunk: int) -> Iterator[Iterator[ByteArray]]:
    """The planes of a tensor from the highest, each as its successive pieces of up to `chunk` bytes."""
    data = raw_bytes(tensor)
    count = plane_count(tensor.dtype)
    if count == 1:
        yield (data[start : start + chunk] for start in range(0, len(data), chunk))
        return
    words = data.view(f"<u{count}")
    for index in range(count):
        yield (_plane(words[start : start + chunk], index) for start in range(0, len(words), chunk))


def join(planes: Sequence[ByteArray], dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor of a split dtype that has these planes."""
    words: Any = numpy.empty(len(planes[0]), f"<u{len(planes)}")
    for start in range(0, len(words), _STEP):
        word = words[start : start + _STEP]
        word[...] = planes[0][start : start + _STEP]
        for plane in planes[1:]:
            word <<= 8
            word |= plane[start : start + _STEP]
        sign = word << 8 * len(planes) - 1
        word >>= 1
        word |= sign
    return as_tensor(words.view(numpy.uint8), dtype, shape)


def _plane(words: Any, index: int) -> ByteArray:
    count = words.dtype.itemsize
    below = 8 * (count - 1 - index)
    plane = words >> below - 1 if below else words << 1 | words >> 8 * count - 1
    low: ByteArray = plane.astype(numpy.uint8)
    return low
