"""What torch writes into pickles, read without torch's own functions.

A tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage; a storage is a call of
`torch.storage._load_from_bytes` on the bytes that the old `torch.save` writes: five pickles one after the other, then
the number of elements, then the elements. The functions here take the same arguments and trust none of them.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from actframe.errors import FormatError, UnsafeFileError
from actframe.storage import safetensors_header
from actframe.storage.pickle_machine import Budget, Global, PickleMachine, Rules
from actframe.storage.pickled_tensor import Allowance, PickledTensor

__all__ = ["DTYPES", "DTYPE_NAMES", "TensorPickler", "torch_calls"]

DTYPES = frozenset([*safetensors_header.DTYPES.values(), torch.complex128])
"""The dtypes of tensors that a pickle may hold."""

DTYPE_NAMES = {Global("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES}
"""The names by which a pickle mentions them."""

_STORAGES: dict[Global, torch.dtype | None] = {
    Global("torch", "DoubleStorage"): torch.float64,
    Global("torch", "FloatStorage"): torch.float32,
    Global("torch", "HalfStorage"): torch.float16,
    Global("torch", "BFloat16Storage"): torch.bfloat16,
    Global("torch", "ComplexDoubleStorage"): torch.complex128,
    Global("torch", "ComplexFloatStorage"): torch.complex64,
    Global("torch", "LongStorage"): torch.int64,
    Global("torch", "IntStorage"): torch.int32,
    Global("torch", "ShortStorage"): torch.int16,
    Global("torch", "CharStorage"): torch.int8,
    Global("torch", "ByteStorage"): torch.uint8,
    Global("torch", "BoolStorage"): torch.bool,
    Global("torch.storage", "UntypedStorage"): None,
}
_TYPED = frozenset(_STORAGES.values())
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


@dataclass(frozen=True, eq=False)
class _Reference:
    """A storage as the old `torch.save` refers to it, before its bytes."""

    dtype: torch.dtype | None
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class _Storage:
    """The bytes that tensors are views of; storages of newer dtypes have none of their own."""

    data: memoryview
    dtype: torch.dtype | None


class TensorPickler(pickle.Pickler):
    """Pickles tensors so that `pickle.load` gives them back.

    That is torch's own way, but for the newer dtypes (float8, uint16 and wider): torch pickles their storages without a
    dtype and then fails to load them. With a storage of bytes, the same call of torch's does.
    """

    def reducer_override(self, value: Any) -> Any:
        """How pickle is to rebuild a value; NotImplemented leaves it to the value."""
        if not isinstance(value, torch.Tensor) or value.dtype in _TYPED:
            return NotImplemented
        storage = value.reshape(-1).view(torch.uint8)._typed_storage()  # type: ignore[no-untyped-call]
        sizes = 0, tuple(value.shape), value.stride()
        return torch._utils._rebuild_tensor_v3, (storage, *sizes, False, collections.OrderedDict(), value.dtype)


def torch_calls(allowance: Allowance, budget: Budget) -> dict[Global, Callable[..., Any]]:
    """The calls of torch's that a pickle may make, each with what happens instead."""

    def tensor(storage: Any, offset: Any, shape: Any, stride: Any, *others: Any) -> PickledTensor:
        _requires_grad, _hooks, views = (*others, None, None, None)[:3]
        dtype = storage.dtype if isinstance(storage, _Storage) else None
        return allowance.made(_tensor(storage, dtype, (offset, shape, stride), views))

    def tensor_of_dtype(storage: Any, offset: Any, shape: Any, stride: Any, *others: Any) -> PickledTensor:
        _requires_grad, _hooks, name, views = (*others, None, None, None, None)[:4]
        dtype = DTYPE_NAMES.get(name) if isinstance(name, Global) else None
        return allowance.made(_tensor(storage, dtype, (offset, shape, stride), views))

    def parameter(value: Any, _requires_grad: Any, _hooks: Any) -> Any:
        return value

    def storage(data: Any) -> _Storage:
        return _read_storage(data, budget)

    return {
        Global("torch._utils", "_rebuild_tensor"): tensor,
        Global("torch._utils", "_rebuild_tensor_v2"): tensor,
        Global("torch._utils", "_rebuild_tensor_v3"): tensor_of_dtype,
        Global("torch._utils", "_rebuild_parameter"): parameter,
        Global("torch.storage", "_load_from_bytes"): storage,
        Global("torch", "Size"): lambda sizes: sizes,
        Global("torch", "device"): _device,
    }


def _tensor(storage: Any, dtype: torch.dtype | None, sizes: tuple[Any, Any, Any], views: Any) -> PickledTensor:
    if not isinstance(storage, _Storage) or dtype is None:
        raise UnsafeFileError("a tensor of its pickle has no storage, or no dtype that is known")
    if views:
        raise FormatError("a tensor of its pickle is a conjugated or negated view; resolve it before pickling")
    return PickledTensor(storage.data, dtype, *sizes)


def _read_storage(data: Any, budget: Budget) -> _Storage:
    if not isinstance(data, memoryview):
        raise UnsafeFileError(f"a storage of its pickle is made from a {type(data).__name__}, not from bytes")
    rules = Rules(names=frozenset(_STORAGES), calls={}, persistent=_reference)
    machine = PickleMachine(data, rules, budget)
    if (machine.load(), machine.load()) != (_MAGIC, _VERSION):
        raise FormatError("a storage of its pickle is not in the format of the old torch.save")
    system = machine.load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FormatError("a storage of its pickle was written on a machine that is not little-endian")
    reference = machine.load()
    if not isinstance(reference, _Reference) or machine.load() != [reference.key]:
        raise FormatError("a storage of its pickle does not hold exactly one storage")
    count = int.from_bytes(machine.take(8), "little")
    if count != reference.count:
        raise UnsafeFileError(f"a storage of its pickle declares {reference.count} elements, and then {count}")
    size = count * (reference.dtype.itemsize if reference.dtype else 1)
    if size != len(data) - machine.position:
        raise UnsafeFileError(f"a storage of its pickle declares {size} bytes and has {len(data) - machine.position}")
    return _Storage(machine.take(size), reference.dtype)


def _reference(identity: Any) -> _Reference:
    if not isinstance(identity, tuple) or len(identity) not in {5, 6} or identity[0] != "storage":
        raise UnsafeFileError("a storage of its pickle refers to something that is not a storage")
    kind, key, count, view = identity[1], identity[2], identity[4], identity[5:]
    if not isinstance(kind, Global) or kind not in _STORAGES or not isinstance(key, str):
        raise UnsafeFileError("a storage of its pickle is of a class that is not known")
    if type(count) is not int or count < 0 or (view and view[0] is not None):
        raise UnsafeFileError("a storage of its pickle is a view, or has a size that is no size")
    return _Reference(_STORAGES[kind], key, count)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or type(index) not in {int, type(None)}:
        raise UnsafeFileError("a device of its pickle is not made of a name and a number")
    return kind if index is None else f"{kind}:{index}"
