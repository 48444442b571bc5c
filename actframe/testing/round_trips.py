"""What a storage backend must do with what it is given: take everything, change nothing, give it back bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy
import pytest
import torch

from actframe.errors import StorageError
from actframe.records.bundle import Bundle, LazyTensors
from actframe.storage.base import StorageBackend
from actframe.testing.bundles import (
    DTYPES,
    METADATA,
    NAMES,
    RARE_DTYPES,
    assert_same,
    assert_survives,
    dtype_name,
    random_tensor,
)

__all__ = ["RoundTrips"]

_SHAPES = [(), (0,), (0, 5), (5, 0, 2), (1,), (1, 1), (7,), (3, 5, 2), (300, 17), (2**16 + 3, 2)]


class RoundTrips:
    """Tests of what is written and comes back: the half of `StorageBackendTests` that needs no damaged file."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
    def test_every_dtype_survives_bit_for_bit_or_is_refused(
        self, backend: StorageBackend, path: Path, dtype: torch.dtype
    ) -> None:
        bundle = Bundle({"small": random_tensor(dtype, 3), "layer_0": random_tensor(dtype, 40, 64, seed=1)})
        if dtype_name(dtype) not in backend.refused_dtypes:
            assert_survives(backend, path, bundle)
            return
        refusal = _refusal(backend, path, bundle)
        assert refusal is not None, f"refused_dtypes names {dtype_name(dtype)!r}, and write() took it"
        assert dtype_name(dtype) in refusal, f"the error does not say that it is about {dtype}: {refusal}"

    @pytest.mark.filterwarnings("ignore")  # torch warns of some of these dtypes, whatever is done with them
    @pytest.mark.parametrize("dtype", RARE_DTYPES, ids=dtype_name)
    def test_a_dtype_that_nobody_expects_survives_or_is_refused(
        self, backend: StorageBackend, path: Path, dtype: torch.dtype
    ) -> None:
        tensor = torch.arange(48, dtype=torch.uint8).view(dtype)
        if _refusal(backend, path, Bundle({"layer_0": tensor})) is not None:
            return
        found = backend.read(path).tensors["layer_0"]
        assert found.dtype == dtype, f"{dtype} came back as {found.dtype}; write() must refuse what it cannot hold"
        assert_same(found.view(torch.uint8), tensor.view(torch.uint8), f"the {dtype}")

    @pytest.mark.parametrize("shape", _SHAPES, ids=str)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool], ids=dtype_name)
    def test_every_shape_survives(
        self, backend: StorageBackend, path: Path, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        assert_survives(backend, path, Bundle({"layer_0": random_tensor(dtype, *shape)}))

    @pytest.mark.parametrize(
        ("dtype", "bits"),
        [
            (torch.float32, [0x7FC00000, 0x7F800001, -0x3FFFFF, -0x80000000, 0x7F800000, 1]),
            (torch.bfloat16, [0x7FC0, 0x7F81, -0x3F, -0x8000, 0x7F80, 1]),
            (torch.float16, [0x7E00, 0x7C01, -0x1FF, -0x8000, 0x7C00, 1]),
        ],
        ids=["float32", "bfloat16", "float16"],
    )
    def test_nan_payloads_negative_zero_and_subnormals_keep_their_bits(
        self, backend: StorageBackend, path: Path, dtype: torch.dtype, bits: list[int]
    ) -> None:
        tensor = torch.tensor(bits, dtype={2: torch.int16, 4: torch.int32}[dtype.itemsize]).view(dtype)
        assert_survives(backend, path, Bundle({"layer_0": tensor}))

    def test_tensors_of_many_dtypes_and_sizes_survive_together_in_their_order(
        self, backend: StorageBackend, path: Path
    ) -> None:
        dtypes = [dtype for dtype in DTYPES if dtype_name(dtype) not in backend.refused_dtypes]
        tensors = {
            f"{dtype}{rows}": random_tensor(dtype, rows, 7, seed=rows) for rows in (0, 1, 3, 400) for dtype in dtypes
        }
        assert_survives(backend, path, Bundle(tensors, {"sites": list(tensors)}))

    def test_nested_and_unicode_metadata_survive(self, backend: StorageBackend, path: Path) -> None:
        assert_survives(backend, path, Bundle({"layer_0": random_tensor(torch.float32, 2)}, METADATA))

    def test_a_bundle_without_tensors_survives(self, backend: StorageBackend, path: Path) -> None:
        assert_survives(backend, path, Bundle({}, {"prompt": "hello"}))

    @pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:40]))
    def test_every_name_survives_or_is_refused(self, backend: StorageBackend, path: Path, name: str) -> None:
        bundle = Bundle({"layer_0": random_tensor(torch.float32, 2), name: random_tensor(torch.float32, 3)})
        if _refusal(backend, path, bundle) is not None:
            return
        found = backend.read(path)
        assert list(found.tensors) == list(bundle.tensors), (
            f"the name {name!r} was taken and is not there; write() must refuse names that the format cannot hold"
        )
        assert_same(found.tensors[name], bundle.tensors[name], repr(name))

    def test_an_empty_file_at_the_path_is_written_over(self, backend: StorageBackend, path: Path) -> None:
        path.touch()
        assert_survives(backend, path, Bundle({"layer_0": random_tensor(torch.bfloat16, 3, 4)}, {"prompt": "hello"}))

    def test_what_is_written_is_left_as_it_was(self, backend: StorageBackend, path: Path) -> None:
        tensors = {"layer_1": random_tensor(torch.bfloat16, 40, 64), "layer_0": random_tensor(torch.float32, 64, 40).T}
        bundle = Bundle(dict(tensors), copy.deepcopy(METADATA))
        before = {name: (tensor.clone(), tensor.stride(), tensor.data_ptr()) for name, tensor in tensors.items()}
        backend.write(path, bundle)
        assert bundle.metadata == METADATA, f"write() changed the metadata that it was given: {bundle.metadata!r}"
        assert list(bundle.tensors) == list(tensors), "write() changed the dictionary of tensors that it was given"
        for name, (values, strides, address) in before.items():
            assert bundle.tensors[name] is tensors[name], f"write() put another tensor in the place of {name!r}"
            where = (tensors[name].stride(), tensors[name].data_ptr())
            assert where == (strides, address), f"write() moved {name!r}, which belongs to its caller"
            same = torch.equal(tensors[name].contiguous().view(torch.uint8), values.contiguous().view(torch.uint8))
            assert same, f"write() changed the numbers of {name!r}, which belongs to its caller"

    def test_a_view_is_written_as_what_it_shows(self, backend: StorageBackend, path: Path) -> None:
        whole = random_tensor(torch.float32, 500, 64)
        views = {
            "row": whole[-1:],
            "transposed": whole[:8].T,
            "stepped": whole[:8, ::3],
            "expanded": whole[:1].expand(4, 64),
        }
        backend.write(path, Bundle(views))
        found = backend.read(path)
        for name, view in views.items():
            assert_same(found.tensors[name], view.contiguous(), f"the {name} view")
        size = path.stat().st_size
        assert size < whole.nbytes / 4, f"{size} bytes for views of a few rows: the whole tensor under them was written"

    def test_an_empty_tensor_of_numpy_survives(self, backend: StorageBackend, path: Path) -> None:
        empty = torch.from_numpy(numpy.empty((0,), "float32")), torch.from_numpy(numpy.empty((3, 0), "uint16"))
        assert_survives(backend, path, Bundle({"a": empty[0], "b": empty[1]}))

    def test_a_tensor_with_a_gradient_is_written_and_left_alone(self, backend: StorageBackend, path: Path) -> None:
        parameter = torch.nn.Parameter(torch.ones(2, 3))
        backend.write(path, Bundle({"layer_0": parameter}))
        found = backend.read(path).tensors["layer_0"]
        assert not found.requires_grad, "what is read wants a gradient; detach it"
        assert parameter.requires_grad, "write() took the gradient from its caller's tensor"
        assert_same(found, parameter.detach())

    def test_only_the_names_asked_for_are_read(self, backend: StorageBackend, path: Path) -> None:
        said = {"prompt": "hello"}
        backend.write(path, Bundle({f"layer_{i}": random_tensor(torch.float32, 2, seed=i) for i in range(4)}, said))
        found = backend.read(path, ["layer_2", "layer_9", "layer_0"])
        assert list(found.tensors) == ["layer_0", "layer_2"], (
            "read(path, names) gives those of the names that the file has, in the file's order; "
            f"of layer_0 to layer_3 and the names layer_2, layer_9, layer_0 it gave {list(found.tensors)}"
        )
        assert_same(found.tensors["layer_2"], random_tensor(torch.float32, 2, seed=2), "'layer_2'")
        assert found.metadata == said, "all metadata is read, whatever the names"
        assert not backend.read(path, []).tensors, "no names were asked for, and tensors came"

    def test_dtype_shape_and_rows_of_a_tensor_are_those_of_the_tensor(
        self, backend: StorageBackend, path: Path
    ) -> None:
        written = {"layer_0": random_tensor(torch.bfloat16, 37, 8), "layer_1": random_tensor(torch.int64, 0, 3)}
        backend.write(path, Bundle(written))
        found = LazyTensors.of(backend.read(path).tensors)
        for name, tensor in written.items():
            facts = found.facts(name)
            assert facts == (tensor.dtype, tuple(tensor.shape)), f"facts({name!r}) gave {facts}"
            for start, stop in (
                (0, len(tensor)),
                (len(tensor) // 3, len(tensor) // 2),
                (len(tensor) // 2, len(tensor) + 9),
            ):
                assert_same(found.rows(name, start, stop), tensor[start:stop], f"rows({name!r}, {start}, {stop})")
            if found.has_views:
                assert_same(found.view(name), tensor, f"view({name!r})")


def _refusal(backend: StorageBackend, path: Path, bundle: Bundle) -> str | None:
    """Why `write` refuses a bundle; None where it takes it. It may refuse with a `StorageError` alone."""
    try:
        backend.write(path, bundle)
    except StorageError as error:
        return str(error)
    except Exception as error:
        pytest.fail(f"write() raised {type(error).__name__} ({error}); what a format cannot hold is a StorageError")
    return None
