"""The plugin as users have it: found through its entry point, used through actframe's own functions."""

import json
import subprocess
import sys
import zipfile
from importlib import metadata

import numpy
import pytest
import torch
from actframe_npz.backend import NpzBackend
from hypothesis import given
from hypothesis import strategies as st

from actframe import Bundle, FormatError, StorageError, UnsafeFileError, load_activations, save_activations
from actframe.registry import registry
from actframe.storage.files import backend_for
from actframe.testing import DTYPES, StorageBackendTests, assert_same, assert_survives, random_tensor


class TestNpzBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return NpzBackend()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.npz"


def test_the_entry_point_is_found_with_its_distribution():
    (entry_point,) = [point for point in metadata.entry_points(group="actframe") if point.name == "npz"]
    assert entry_point.dist.name == "actframe-npz"
    (plugin,) = [plugin for plugin in registry().plugins() if plugin.distribution == "actframe-npz"]
    assert plugin.error is None
    assert plugin.extensions == [NpzBackend]
    assert type(backend_for("x.npz")) is NpzBackend


def test_looking_the_plugin_up_by_its_entry_point_imports_neither_numpy_nor_torch():
    script = "import sys, actframe_npz; print(sorted({'numpy', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_records_are_saved_and_loaded_by_their_suffix(path):
    record = {
        "prompt": "hello",
        "activations": {"layer_0": random_tensor(torch.bfloat16, 3, 4), "layer_1": torch.ones(2)},
    }
    save_activations(record, path)
    found = load_activations(path, sites="layer_0")
    assert found["prompt"] == "hello"
    assert list(found["activations"]) == ["layer_0"]
    assert_same(found["activations"]["layer_0"], record["activations"]["layer_0"])


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=4),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_any_shapes_and_dtypes_survive_together(tmp_path_factory, shapes, dtypes, seed):
    tensors = {
        f"{index}": random_tensor(dtype, *shape, seed=seed)
        for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    assert_survives(NpzBackend(), tmp_path_factory.mktemp("property") / "x.npz", Bundle(tensors, {"seed": seed}))


def test_numpy_reads_the_file_without_unpickling(path):
    tensor = torch.tensor([1.0, -2.5, 3.0]).bfloat16()
    NpzBackend().write(path, Bundle({"layer_0": tensor, "layer_1": torch.arange(3.0)}, {"prompt": "hello"}))
    with numpy.load(path, allow_pickle=False) as arrays:
        assert arrays.files == ["__actframe__", "layer_0", "layer_1"]
        about = json.loads(arrays["__actframe__"].tobytes())
        assert about == {"metadata": {"prompt": "hello"}, "dtypes": {"layer_0": "bfloat16"}}
        assert (arrays["layer_0"].astype("uint32") << 16).view("float32").tolist() == [1.0, -2.5, 3.0]
        assert arrays["layer_1"].tolist() == [0, 1, 2]


def test_files_of_numpy_are_read(path):
    array = numpy.arange(6, dtype="f4").reshape(2, 3)
    numpy.savez(path, layer_0=array, layer_1=numpy.asfortranarray(array), layer_2=numpy.float64(3))
    found = NpzBackend().read(path)
    assert found.metadata == {}
    for name, expected in (("layer_0", array), ("layer_1", array), ("layer_2", numpy.array(3.0))):
        assert_same(found.tensors[name], torch.from_numpy(expected))


def test_the_same_bundle_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        NpzBackend().write(tmp_path / name, Bundle({"layer_0": torch.ones(3)}, {"prompt": "hello"}))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_file_replaced_after_it_was_opened_is_not_mixed_with_its_successor(path):
    NpzBackend().write(path, Bundle({"layer_0": torch.zeros(8)}))
    found = NpzBackend().read(path)
    NpzBackend().write(path, Bundle({"layer_0": torch.ones(8)}))
    with pytest.raises(StorageError, match="changed or replaced after it was opened"):
        found.tensors["layer_0"]


@pytest.mark.parametrize("name", ["__actframe__", "layer_0.npy", "a\0b", "\ud83d"])
def test_a_name_that_numpy_would_take_for_another_is_refused(path, name):
    with pytest.raises(StorageError, match="cannot be called"):
        NpzBackend().write(path, Bundle({name: torch.ones(1)}))


def read(path):
    return dict(NpzBackend().read(path).tensors)


def test_a_compressed_file_is_refused(path):
    numpy.savez_compressed(path, layer_0=numpy.zeros(10_000_000))
    with pytest.raises(UnsafeFileError, match="'layer_0' is compressed; only files of numpy.savez are read"):
        read(path)


def test_an_array_of_objects_is_refused(path):
    numpy.savez(path, layer_0=numpy.array([{"a": 1}], dtype=object))
    with pytest.raises(UnsafeFileError, match="has the dtype object"):
        read(path)


def test_a_big_endian_array_is_refused(path):
    numpy.savez(path, layer_0=numpy.zeros(3, ">f4"))
    with pytest.raises(UnsafeFileError, match="not a plain little-endian number"):
        read(path)


def npy(shape, data, dtype="<f4"):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (npy((2**50,), bytes(8)), UnsafeFileError, "takes 4503599627370496 bytes, and 8 are there"),
        (npy((3,), bytes(8)), UnsafeFileError, "takes 12 bytes, and 8 are there"),
        (npy((1,), bytes(8)), UnsafeFileError, "takes 4 bytes, and 8 are there"),
        (npy((-2, -1), bytes(8)), UnsafeFileError, "takes 8 bytes"),
        (npy((2,), bytes(8), "|O"), UnsafeFileError, "has the dtype object"),
        (npy((2,), bytes(8), "nonsense"), FormatError, "not an .npz file, damaged"),
        (npy(("x" * 20_000,), bytes(8)), FormatError, "not an .npz file, damaged"),
        (b"\x93NUMPY\x03\x00" + bytes(20), FormatError, "version"),
        (b"text", FormatError, "not an .npz file, damaged"),
    ],
)
def test_an_array_that_lies_is_refused(path, content, error, message):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("layer_0.npy", content)
    with pytest.raises(error, match=message):
        read(path)


def test_entries_that_share_their_bytes_are_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy((1000,), bytes(4000)))
        (first,) = archive.infolist()
        for name in ("b", "c", "d"):
            copy = zipfile.ZipInfo(f"{name}.npy")
            for key in ("header_offset", "CRC", "file_size", "compress_size"):
                setattr(copy, key, getattr(first, key))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True
    with pytest.raises(UnsafeFileError, match=r"declare \d+ bytes, and the file has \d+"):
        read(path)


def test_a_directory_that_leads_out_of_the_file_is_refused(path):
    NpzBackend().write(path, Bundle({"layer_0": torch.ones(3)}))
    content = bytearray(path.read_bytes())
    content[-6:-2] = (len(content) + 1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FormatError, match="damaged"):
        read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy((1,), bytes(4)))
        archive.writestr("a.npy", npy((1,), bytes(4)))
    with pytest.raises(FormatError, match="'a.npy', which is not an array, or is there twice"):
        read(path)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (b"{", "is not JSON text"),
        (b"[" * 100_000, "is not JSON text"),
        (b"{}", "does not hold metadata and dtypes"),
        (b"[]", "does not hold metadata and dtypes"),
        (b'{"metadata": {}, "dtypes": {"a": "float64"}}', "an array of float32 is said to hold 'float64'"),
        (b'{"metadata": {}, "dtypes": {"a": "bfloat16"}}', "an array of float32 is said to hold 'bfloat16'"),
        (b'{"metadata": {}, "dtypes": {"a": []}}', "an array of float32 is said to hold"),
    ],
)
def test_metadata_that_lies_is_refused(path, about, message):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__actframe__.npy", npy((len(about),), about, "|u1"))
        archive.writestr("a.npy", npy((1,), bytes(4)))
    with pytest.raises(FormatError, match=message):
        read(path)


def test_a_flipped_bit_of_an_array_is_an_error(path):
    NpzBackend().write(path, Bundle({"layer_0": torch.zeros(1000)}))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="Bad CRC-32"):
        read(path)
