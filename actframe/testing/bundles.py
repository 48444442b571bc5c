"""Tensors of any bits and what is hard about bundles: what the suites hand to storage backends, and compare."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from actframe.records.bundle import Bundle
from actframe.storage.base import StorageBackend

__all__ = [
    "DTYPES",
    "METADATA",
    "NAMES",
    "RARE_DTYPES",
    "assert_same",
    "assert_survives",
    "dtype_name",
    "random_tensor",
]

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
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
]
"""What activations, ids and masks can be: a backend holds each of them, or declares that it refuses it."""

RARE_DTYPES = sorted({dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)} - set(DTYPES), key=str)
"""Everything else that torch calls a dtype: quantised numbers, parts of a byte. A backend may refuse them."""

METADATA = {
    "prompt": 'What is the capital of France? 東京 🙂 \\ " \n \x00',
    "lone surrogate": "\ud83d",
    "response": None,
    "input_ids": [1, 2, 2**40, -1],
    "score": 0.1,
    "correct": True,
    "nested": {"a": [{"b": []}, {}], "": 1e300},
}

NAMES = [
    "layer_0",
    "layer_10",
    "layer_2",
    "layer_3.attn_out",
    "embeddings",
    "module:model.layers.0.mlp@input",
    "encoder.layer_0",
    "with space",
    "with/slash",
    "../up",
    "Ünïcode 東京",
    "x" * 300,
    "",
    "activations",
    "__metadata__",
    "\ud83d",
]


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def random_tensor(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """A tensor of any bits at all: NaNs with payloads, negative zeros, infinities. Booleans are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.Size(shape).numel() * dtype.itemsize
    data = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def assert_same(found: Tensor, expected: Tensor, name: str = "the tensor") -> None:
    """Both have the same dtype, shape and bits; `name` is what an error calls them."""
    assert isinstance(found, Tensor), f"{name} came back as a {type(found).__name__}, not as a tensor"
    assert found.dtype == expected.dtype, f"{name} was written as {expected.dtype} and came back as {found.dtype}"
    assert found.shape == expected.shape, (
        f"{name} was written with the shape {tuple(expected.shape)} and came back with {tuple(found.shape)}"
    )
    different = int((_bits(found) != _bits(expected)).sum())
    assert not different, f"{different} of the {expected.nbytes} bytes of {name} ({expected.dtype}) came back changed"


def assert_survives(backend: StorageBackend, path: Path, bundle: Bundle) -> None:
    """Writing and reading gives the same bundle: names and their order, bits, metadata."""
    backend.write(path, bundle)
    found = backend.read(path)
    written, came_back = list(bundle.tensors), list(found.tensors)
    assert came_back == written, f"tensors were written as {written} and came back as {came_back}"
    assert found.metadata == bundle.metadata, f"metadata changed: {bundle.metadata!r} came back as {found.metadata!r}"
    for name, tensor in bundle.tensors.items():
        assert_same(found.tensors[name], tensor, repr(name))


def _bits(tensor: Tensor) -> Tensor:
    # Empty tensors of NumPy's have strides that cannot be viewed as bytes.
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
