"""What NumPy writes into pickles, read without NumPy's own functions.

An array is a call that makes an empty one and a state that fills it, or a call of `_frombuffer`; a dtype is a call with
its code and a state with its byte order. The functions here take the same arguments and trust none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from actframe.errors import FormatError, UnsafeFileError
from actframe.storage.pickle_machine import Global
from actframe.storage.pickled_tensor import Allowance, PickledTensor, check_sizes, row_major

__all__ = ["NDARRAY", "PickledArray", "numpy_build", "numpy_calls"]

NDARRAY = Global("numpy", "ndarray")

_DTYPES = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "c16": torch.complex128,
    "c8": torch.complex64,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u8": torch.uint64,
    "u4": torch.uint32,
    "u2": torch.uint16,
    "u1": torch.uint8,
    "b1": torch.bool,
}
_ORDERS = {"<", "=", "|"}


@dataclass(eq=False)
class _Dtype:
    """A dtype that a pickle is putting together: its code, and whether its bytes are in this machine's order."""

    code: str
    little_endian: bool = True


@dataclass(eq=False)
class PickledArray:
    """An array that a pickle is putting together."""

    tensor: PickledTensor | None = None


def numpy_calls(allowance: Allowance) -> dict[Global, Callable[..., Any]]:
    """The calls of NumPy's that a pickle may make, each with what happens instead."""

    def from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledTensor:
        return allowance.made(_tensor(data, dtype, shape, fortran=order == "F"))

    calls: dict[Global, Callable[..., Any]] = {Global("numpy", "dtype"): _dtype}
    for package in ("numpy.core", "numpy._core"):
        calls[Global(f"{package}.multiarray", "_reconstruct")] = _empty_array
        calls[Global(f"{package}.multiarray", "scalar")] = _scalar
        calls[Global(f"{package}.numeric", "_frombuffer")] = from_buffer
    return calls


def numpy_build(allowance: Allowance) -> Callable[[Any, Any], None]:
    """What sets the state of an array or a dtype."""

    def build(value: Any, state: Any) -> None:
        if isinstance(value, _Dtype) and type(state) is tuple and len(state) >= 5 and state[2:5] == (None, None, None):
            value.little_endian = state[1] in _ORDERS
        elif isinstance(value, PickledArray) and value.tensor is None and type(state) is tuple and len(state) == 5:
            _version, shape, dtype, fortran, data = state
            value.tensor = allowance.made(_tensor(data, dtype, shape, fortran=fortran is True))
        else:
            raise UnsafeFileError(f"its pickle sets the state of a {type(value).__name__}, which is not allowed")

    return build


def _tensor(data: Any, dtype: Any, shape: Any, *, fortran: bool) -> PickledTensor:
    if not isinstance(data, memoryview) or not isinstance(dtype, _Dtype):
        raise UnsafeFileError("an array of its pickle is not made of bytes and a dtype")
    if not dtype.little_endian:
        raise FormatError("an array of its pickle has its bytes in big-endian order; convert it before pickling")
    check_sizes(shape)
    known = _DTYPES[dtype.code]
    stride = row_major(shape[::-1])[::-1] if fortran else row_major(shape)
    tensor = PickledTensor(data, known, 0, shape, stride)
    if tensor.nbytes != len(data):
        raise UnsafeFileError(f"an array of its pickle takes {tensor.nbytes} bytes and has {len(data)}")
    return tensor


def _dtype(code: Any, _align: Any = False, _copy: Any = True) -> _Dtype:
    if not isinstance(code, str) or code.lstrip("<|=") not in _DTYPES:
        shown = code if isinstance(code, str) else type(code).__name__
        raise FormatError(f"an array of its pickle has the dtype {shown!r:.40}; known are {', '.join(_DTYPES)}")
    return _Dtype(code.lstrip("<|="))


def _empty_array(kind: Any, _shape: Any, _code: Any) -> PickledArray:
    if kind != NDARRAY:
        raise UnsafeFileError("its pickle makes an array of a class that is not numpy.ndarray")
    return PickledArray()


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, memoryview) or not dtype.little_endian:
        raise FormatError("a NumPy number of its pickle is not made of a dtype and bytes in little-endian order")
    layout = numpy.dtype(dtype.code)
    if len(data) != layout.itemsize:
        raise UnsafeFileError(f"a NumPy number of its pickle takes {layout.itemsize} bytes and has {len(data)}")
    return numpy.frombuffer(data, layout)[0].item()
