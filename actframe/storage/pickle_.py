"""Storage backend `pickle`: a plain dictionary that unpickles without actframe."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actframe.errors import FormatError, StorageError, UnsafeFileError
from actframe.records.bundle import Bundle, LazyTensors
from actframe.storage.base import StorageBackend
from actframe.storage.numpy_pickles import NDARRAY, PickledArray, numpy_build, numpy_calls
from actframe.storage.pickle_machine import Budget, Global, PickleMachine, Rules
from actframe.storage.pickled_tensor import Allowance, PickledTensor
from actframe.storage.positional import PositionalFile
from actframe.storage.torch_pickles import DTYPE_NAMES, DTYPES, TensorPickler, torch_calls

__all__ = ["PickleBackend"]

_ACTIVATIONS = "activations"
# What every Python 3 reads; later protocols gain nothing here.
_PROTOCOL = 4
_DEEPEST = 64
_NUMBERS = {int, float}


class PickleBackend(StorageBackend):
    """`.pkl` files: `pickle.load` gives the metadata's dictionary, with the tensors by name under `activations`.

    They are read by a machine of ours, which cannot run code, also where somebody else wrote them: with tensors as
    plain pickling writes them, or NumPy arrays, which become tensors.
    """

    name = "pickle"
    suffix = ".pkl"

    def write(self, path: Path, bundle: Bundle) -> None:
        """Write the dictionary, each tensor with a storage that holds its own elements and no others."""
        if _ACTIVATIONS in bundle.metadata:
            raise StorageError(f"the metadata of a pickled bundle cannot have the key {_ACTIVATIONS!r}")
        tensors = {name: _compact(name, tensor) for name, tensor in bundle.tensors.items()}
        with open(path, "wb") as file:
            TensorPickler(file, protocol=_PROTOCOL).dump({**bundle.metadata, _ACTIVATIONS: tensors})

    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read the dictionary; the whole file is read, and tensors take memory when they are looked up."""
        file = PositionalFile(path)
        data = memoryview(file.read(0, file.size).data).toreadonly()
        tensors, metadata = _parts(*_load(data))
        wanted = [name for name in tensors if names is None or name in names]
        return Bundle(LazyTensors(wanted, lambda name: tensors[name].load()), metadata)


def _load(data: memoryview) -> tuple[Any, Budget]:
    """What the pickle holds, and what is left for whoever walks through it."""
    if bytes(data[:2]) == b"PK":
        raise FormatError(
            "it was written by torch.save; load it with torch.load(..., weights_only=True) and save it again"
        )
    allowance, budget = Allowance(2 * len(data)), Budget()

    def encode(text: Any, encoding: Any) -> memoryview:
        if not isinstance(text, str) or encoding != "latin1":
            raise UnsafeFileError("its pickle encodes something that is not text, or not as latin1")
        allowance.spend(len(text))
        return memoryview(text.encode("latin1"))

    calls: dict[Global, Callable[..., Any]] = {
        **torch_calls(allowance, budget),
        **numpy_calls(allowance),
        Global("collections", "OrderedDict"): _empty_dictionary,
        # Before protocol 3 there are no bytes: Python writes them as text to be encoded.
        Global("_codecs", "encode"): encode,
    }
    names = frozenset([*DTYPE_NAMES, NDARRAY])
    machine = PickleMachine(data, Rules(names, calls, build=numpy_build(allowance)), budget)
    value = machine.load()
    if machine.position != len(data):
        raise FormatError(f"{len(data) - machine.position} bytes follow the end of its pickle")
    return value, budget


def _empty_dictionary() -> dict[str, Any]:
    return {}


def _parts(value: Any, budget: Budget) -> tuple[dict[str, PickledTensor], dict[str, Any]]:
    """The tensors by name and the metadata of a dictionary, also of one that has its tensors at the top."""
    if not isinstance(value, dict):
        raise FormatError(f"it unpickles to a {type(value).__name__}, not to a dictionary")
    holder = value.get(_ACTIVATIONS)
    if holder is None:
        holder = {key: item for key, item in value.items() if _as_tensor(item) is not None}
    if not isinstance(holder, dict):
        raise FormatError(f"its {_ACTIVATIONS!r} are a {type(holder).__name__}, not a dictionary of tensors")
    tensors = {}
    for name, item in holder.items():
        tensor = _as_tensor(item)
        if not isinstance(name, str) or tensor is None:
            raise FormatError(
                f"its {_ACTIVATIONS!r} map {name!r:.80} to a {type(item).__name__}, not a site to a tensor"
            )
        tensors[name] = tensor
    rest = {key: item for key, item in value.items() if key != _ACTIVATIONS and key not in tensors}
    return tensors, _plain(rest, "metadata", budget, 0)


def _as_tensor(value: Any) -> PickledTensor | None:
    if isinstance(value, PickledArray):
        return value.tensor
    return value if isinstance(value, PickledTensor) else None


def _plain(value: Any, where: str, budget: Budget, depth: int) -> Any:
    """A value as JSON has it. What a pickle names twice is walked twice, so every step counts."""
    budget.spend(1)
    if depth > _DEEPEST:
        raise UnsafeFileError(f"{where:.80}... is nested more than {_DEEPEST} deep, or contains itself")
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise FormatError(f"{where} has keys that are not strings")
        return {key: _plain(item, f"{where}[{key!r:.80}]", budget, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if _NUMBERS.issuperset(map(type, value)):
            budget.spend(len(value))
            return list(value)
        return [_plain(item, f"{where}[{index}]", budget, depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Global):
        return value.name
    tensor = _as_tensor(value)
    if tensor is None or tensor.dtype.is_complex:
        raise FormatError(f"{where} is a {type(value).__name__}, which metadata cannot hold")
    budget.spend(tensor.nbytes // tensor.dtype.itemsize)
    return tensor.load().tolist()


def _compact(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in DTYPES:
        known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in DTYPES))
        raise StorageError(
            f"{name!r} is {tensor.dtype}, which pickled files of ours cannot hold; they can hold {known}"
        )
    if not tensor.numel():
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()
