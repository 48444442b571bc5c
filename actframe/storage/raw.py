"""Tensors as the bytes in their memory, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from actframe.storage.positional import ByteArray

__all__ = ["as_tensor", "raw_bytes"]


def raw_bytes(tensor: Tensor) -> ByteArray:
    """The elements of a CPU tensor as bytes, row by row: a view of its memory where it is contiguous."""
    if not tensor.numel():
        return numpy.empty(0, numpy.uint8)
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    data: ByteArray = plain.reshape(-1).view(torch.uint8).numpy()
    return data


def as_tensor(data: ByteArray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor with these bytes. It takes over an array that may be written to, and copies one that may not."""
    if not len(data):
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.from_numpy(data if data.flags.writeable else data.copy()).view(dtype).reshape(tuple(shape))
