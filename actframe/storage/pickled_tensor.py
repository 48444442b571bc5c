"""PickledTensor: a tensor of a pickle, of which nothing is believed before it is checked against the file's bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from actframe.errors import UnsafeFileError
from actframe.storage.raw import as_tensor

__all__ = ["Allowance", "PickledTensor", "check_sizes", "row_major"]

_MOST_DIMENSIONS = 64
_LARGEST = 2**63


@dataclass(frozen=True, eq=False)
class PickledTensor:
    """A tensor whose elements lie within `data`. Bounds are checked when it is made, memory is taken by `load`.

    Offset and strides count elements, as torch's do.
    """

    data: memoryview
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        check_sizes(self.shape)
        check_sizes(self.stride)
        check_sizes((self.offset,))
        if len(self.shape) != len(self.stride):
            raise UnsafeFileError(f"a tensor has {len(self.shape)} dimensions and {len(self.stride)} strides")
        if math.prod(max(size, 1) for size in self.shape) >= _LARGEST:
            raise UnsafeFileError(f"a tensor has {self._sizes}, more elements than can be counted")
        if self.nbytes and (self.offset + self._span) * self.dtype.itemsize > len(self.data):
            raise UnsafeFileError(f"a tensor has {self._sizes}, which lies outside of its {len(self.data)} bytes")
        if self.nbytes > len(self.data):
            raise UnsafeFileError(f"a tensor has {self._sizes}, which repeats its {len(self.data)} bytes")

    @property
    def nbytes(self) -> int:
        """The bytes that it takes once it is loaded."""
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> Tensor:
        """The tensor, contiguous, in memory of its own."""
        if not self.nbytes:
            return torch.empty(self.shape, dtype=self.dtype)
        start = self.offset * self.dtype.itemsize
        data = numpy.frombuffer(self.data, numpy.uint8)[start : start + self._span * self.dtype.itemsize]
        flat = as_tensor(data.copy(), self.dtype, (self._span,))
        if self.stride == row_major(self.shape):
            return flat.view(self.shape)
        return flat.as_strided(self.shape, self.stride).clone(memory_format=torch.contiguous_format)

    @property
    def _span(self) -> int:
        """How many elements lie between its first and its last."""
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def _sizes(self) -> str:
        sizes = f"shape {self.shape}, strides {self.stride} and offset {self.offset}"
        return sizes if len(sizes) <= 200 else f"{sizes[:200]}..."


class Allowance:
    """How many bytes the tensors of one file may still take.

    Each has its own bytes in the file, so together they take no more than the file does. (A pickle may name the same
    bytes a thousand times.)
    """

    def __init__(self, file_bytes: int) -> None:
        self._left = file_bytes

    def spend(self, count: int) -> None:
        """Take `count` bytes from what is left."""
        self._left -= count
        if self._left < 0:
            raise UnsafeFileError("its tensors take more bytes than the file has")

    def made(self, tensor: PickledTensor) -> PickledTensor:
        """The tensor, once its bytes are accounted for."""
        self.spend(tensor.nbytes)
        return tensor


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def check_sizes(sizes: Any) -> None:
    """Raise UnsafeFileError unless this is a tuple of a few numbers, which can be counted with and shown."""
    if type(sizes) is not tuple or len(sizes) > _MOST_DIMENSIONS:
        raise UnsafeFileError(f"a tensor has no shape, or one of more than {_MOST_DIMENSIONS} dimensions")
    for size in sizes:
        if type(size) is not int or not 0 <= size < _LARGEST:
            shown = size if type(size) is int else f"a {type(size).__name__}"
            raise UnsafeFileError(f"a tensor has {shown} as a size, stride or offset")
