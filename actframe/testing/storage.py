"""StorageBackendTests: what every storage backend must do, for the tests of yours.

from actframe.testing.storage import StorageBackendTests

class TestNpzBackend(StorageBackendTests):
    backend = NpzBackend
"""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy
import pytest
import torch
from torch import Tensor

from actframe.errors import ActframeError, StorageError
from actframe.records.bundle import Bundle
from actframe.storage.base import StorageBackend
from actframe.storage.checksums import file_checksum

__all__ = ["DTYPES", "StorageBackendTests", "assert_same", "assert_survives", "random_tensor"]

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


def random_tensor(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    """A tensor of any bits at all: NaNs with payloads, negative zeros, infinities. Booleans are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.Size(shape).numel() * dtype.itemsize
    data = torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Both have the same dtype, shape and bits."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    same = torch.equal(_bits(found), _bits(expected))
    assert same, f"{int((_bits(found) != _bits(expected)).sum())} bytes differ"


def assert_survives(backend: StorageBackend, path: Path, bundle: Bundle) -> None:
    """Writing and reading gives the same bundle: names and their order, bits, metadata."""
    backend.write(path, bundle)
    found = backend.read(path)
    assert list(found.tensors) == list(bundle.tensors)
    assert found.metadata == bundle.metadata
    for name, tensor in bundle.tensors.items():
        assert_same(found.tensors[name], tensor)


class StorageBackendTests:
    """Subclass this in a test file, with `backend` set; pytest runs the rest.

    Attributes:
        backend: the class under test.
        refused_dtypes: dtypes that the format cannot hold, and says so before anything is written.
    """

    backend: ClassVar[type[StorageBackend]]
    refused_dtypes: ClassVar[frozenset[torch.dtype]] = frozenset()

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Where a test writes its file."""
        return tmp_path / f"bundle{self.backend.suffix}"

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype_survives_bit_for_bit_or_is_refused(self, path: Path, dtype: torch.dtype) -> None:
        bundle = Bundle({"small": random_tensor(dtype, 3), "layer_0": random_tensor(dtype, 40, 64, seed=1)})
        if dtype in self.refused_dtypes:
            with pytest.raises(StorageError, match=str(dtype).removeprefix("torch.")):
                self.backend().write(path, bundle)
        else:
            assert_survives(self.backend(), path, bundle)

    @pytest.mark.parametrize(
        "shape", [(), (0,), (0, 5), (5, 0, 2), (1,), (1, 1), (7,), (3, 5, 2), (300, 17), (2**16 + 3, 2)]
    )
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool], ids=str)
    def test_every_shape_survives(self, path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        assert_survives(self.backend(), path, Bundle({"layer_0": random_tensor(dtype, *shape)}))

    def test_tensors_of_many_dtypes_and_sizes_survive_together_in_their_order(self, path: Path) -> None:
        dtypes = [dtype for dtype in DTYPES if dtype not in self.refused_dtypes]
        tensors = {
            f"{dtype}{rows}": random_tensor(dtype, rows, 7, seed=rows) for rows in (0, 1, 3, 400) for dtype in dtypes
        }
        assert_survives(self.backend(), path, Bundle(tensors, {"sites": list(tensors)}))

    def test_metadata_survives(self, path: Path) -> None:
        assert_survives(self.backend(), path, Bundle({"layer_0": random_tensor(torch.float32, 2)}, METADATA))

    def test_a_bundle_without_tensors_survives(self, path: Path) -> None:
        assert_survives(self.backend(), path, Bundle({}, {"prompt": "hello"}))

    @pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:40]))
    def test_every_name_survives_or_is_refused(self, path: Path, name: str) -> None:
        bundle = Bundle({"layer_0": random_tensor(torch.float32, 2), name: random_tensor(torch.float32, 3)})
        try:
            self.backend().write(path, bundle)
        except StorageError:
            return
        found = self.backend().read(path)
        assert list(found.tensors) == list(bundle.tensors)
        assert_same(found.tensors[name], bundle.tensors[name])

    def test_a_view_is_written_as_what_it_shows(self, path: Path) -> None:
        whole = random_tensor(torch.float32, 500, 64)
        views = {
            "row": whole[-1:],
            "transposed": whole[:8].T,
            "stepped": whole[:8, ::3],
            "expanded": whole[:1].expand(4, 64),
        }
        self.backend().write(path, Bundle(views))
        found = self.backend().read(path)
        for name, view in views.items():
            assert_same(found.tensors[name], view.contiguous())
        assert path.stat().st_size < whole.nbytes / 4

    def test_an_empty_tensor_of_numpy_survives(self, path: Path) -> None:
        empty = torch.from_numpy(numpy.empty((0,), "float32")), torch.from_numpy(numpy.empty((3, 0), "uint16"))
        assert_survives(self.backend(), path, Bundle({"a": empty[0], "b": empty[1]}))

    def test_a_tensor_with_a_gradient_is_written_and_left_alone(self, path: Path) -> None:
        parameter = torch.nn.Parameter(torch.ones(2, 3))
        self.backend().write(path, Bundle({"layer_0": parameter}))
        found = self.backend().read(path).tensors["layer_0"]
        assert not found.requires_grad
        assert parameter.requires_grad
        assert_same(found, parameter.detach())

    def test_what_is_read_owns_its_memory(self, path: Path) -> None:
        written = {"layer_0": random_tensor(torch.bfloat16, 30, 64), "layer_1": random_tensor(torch.bfloat16, 30, 64)}
        self.backend().write(path, Bundle(written))
        found = dict(self.backend().read(path).tensors)
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.write(bytes(size))
        for name, tensor in found.items():
            assert tensor.device.type == "cpu"
            assert tensor.is_contiguous()
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
            assert_same(tensor, written[name])
            tensor.zero_()

    def test_only_the_names_asked_for_are_read(self, path: Path) -> None:
        self.backend().write(path, Bundle({f"layer_{i}": random_tensor(torch.float32, 2, seed=i) for i in range(4)}))
        found = self.backend().read(path, ["layer_2", "layer_9", "layer_0"])
        assert list(found.tensors) == ["layer_0", "layer_2"]
        assert_same(found.tensors["layer_2"], random_tensor(torch.float32, 2, seed=2))

    def test_threads_may_read_one_bundle(self, path: Path) -> None:
        written = {f"layer_{i}": random_tensor(torch.bfloat16, 64, 64, seed=i) for i in range(8)}
        self.backend().write(path, Bundle(written))
        found = self.backend().read(path).tensors
        names = list(written) * 20
        with ThreadPoolExecutor(4) as pool:
            for name, tensor in zip(names, pool.map(lambda name: found[name], names), strict=True):
                assert_same(tensor, written[name])

    @pytest.mark.parametrize("rows", [1, 40_000])
    def test_a_checksum_that_is_told_is_that_of_the_file(self, path: Path, rows: int) -> None:
        told = self.backend().write(path, Bundle({"layer_0": random_tensor(torch.bfloat16, rows, 500)}, METADATA))
        assert told is None or told == file_checksum(path)

    @pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
    def test_no_file_stays_open(self, path: Path) -> None:
        self.backend().write(path, Bundle({"layer_0": random_tensor(torch.float32, 4)}))
        before = len(list(Path("/proc/self/fd").iterdir()))
        kept = [self.backend().read(path) for _ in range(5)]
        assert all(len(dict(bundle.tensors)) == 1 for bundle in kept)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_a_file_cut_short_is_refused_wherever_it_ends(self, path: Path) -> None:
        self.backend().write(path, Bundle({"layer_0": random_tensor(torch.bfloat16, 40, 32)}, METADATA))
        whole = path.read_bytes()
        lengths = {*range(1, min(200, len(whole))), *random.Random(0).sample(range(1, len(whole)), 100), len(whole) - 1}
        for length in sorted(lengths):
            path.write_bytes(whole[:length])
            with pytest.raises(ActframeError):
                dict(self.backend().read(path).tensors)

    def test_a_file_of_something_else_is_refused(self, path: Path) -> None:
        for content in (
            b"\n",
            b"{}",
            b"PK\x03\x04" + bytes(40),
            b"hello, world\n" * 20,
            random.Random(0).randbytes(5000),
        ):
            path.write_bytes(content)
            with pytest.raises(ActframeError):
                dict(self.backend().read(path).tensors)


def _bits(tensor: Tensor) -> Tensor:
    # Empty tensors of NumPy's have strides that cannot be viewed as bytes.
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
