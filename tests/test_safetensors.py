"""Storage backend `safetensors`, and the header that it shares with `zstd`."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from actframe.errors import FormatError, StorageError, UnsafeFileError
from actframe.records.bundle import Bundle
from actframe.storage.positional import PositionalFile
from actframe.storage.safetensors_ import SafetensorsBackend
from actframe.testing import DTYPES, StorageBackendTests, assert_same, assert_survives, random_tensor

LIBRARY_DTYPES = [dtype for dtype in DTYPES if dtype != torch.complex128]


class TestSafetensorsBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return SafetensorsBackend()


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=4),
    dtypes=st.lists(st.sampled_from(LIBRARY_DTYPES), min_size=4, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_any_shapes_and_dtypes_survive_together(tmp_path_factory, shapes, dtypes, seed):
    tensors = {
        f"{index}": random_tensor(dtype, *shape, seed=seed)
        for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    path = tmp_path_factory.mktemp("property") / "bundle.safetensors"
    assert_survives(SafetensorsBackend(), path, Bundle(tensors, {"seed": seed}))


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    path = tmp_path / "bundle.safetensors"
    tensors = {str(dtype): random_tensor(dtype, 3, 5) for dtype in LIBRARY_DTYPES}
    SafetensorsBackend().write(path, Bundle(tensors, {"prompt": "hé"}))
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["actframe"]) == {"prompt": "hé"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert_same(file.get_tensor(name), tensor)


def test_files_of_the_safetensors_library_are_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {"a": random_tensor(torch.bfloat16, 3, 5), "b": random_tensor(torch.int64, 2), "c": torch.tensor(1.5)}
    save_file(tensors, path, metadata={"format": "pt"})
    found = SafetensorsBackend().read(path)
    assert found.metadata == {}
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same(found.tensors[name], tensor)


def test_tensors_start_at_multiples_of_their_element_size(tmp_path):
    path = tmp_path / "bundle.safetensors"
    tensors = {
        "odd": torch.ones(3, dtype=torch.bool),
        "even": torch.ones(1, dtype=torch.int64),
        "half": torch.ones(3).half(),
    }
    SafetensorsBackend().write(path, Bundle(tensors))
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length % 8 == 0
    for name, entry in json.loads(path.read_bytes()[8 : 8 + length]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % tensors[name].element_size() == 0
    assert list(SafetensorsBackend().read(path).tensors) == list(tensors)
    assert load_file(path)["even"].item() == 1


def test_reading_one_site_reads_the_header_and_that_site(tmp_path, monkeypatch):
    path = tmp_path / "bundle.safetensors"
    SafetensorsBackend().write(path, Bundle({f"layer_{i}": random_tensor(torch.bfloat16, 64, 64) for i in range(31)}))
    counts = []
    read_into = PositionalFile.read_into
    monkeypatch.setattr(
        PositionalFile,
        "read_into",
        lambda self, start, buffer: counts.append(len(buffer)) or read_into(self, start, buffer),
    )
    tensor = SafetensorsBackend().read(path).tensors["layer_17"]
    assert sum(counts) < tensor.nbytes + 4096


def test_a_file_replaced_after_it_was_opened_is_not_mixed_with_its_successor(tmp_path):
    path = tmp_path / "bundle.safetensors"
    SafetensorsBackend().write(path, Bundle({"layer_0": torch.zeros(8)}))
    found = SafetensorsBackend().read(path)
    path.unlink()
    SafetensorsBackend().write(path, Bundle({"other": torch.zeros(4), "layer_0": torch.ones(8)}))
    with pytest.raises(StorageError, match="changed or replaced after it was opened"):
        found.tensors["layer_0"]


def test_a_file_cut_short_after_it_was_opened_is_an_error(tmp_path):
    path = tmp_path / "bundle.safetensors"
    SafetensorsBackend().write(path, Bundle({"layer_0": torch.zeros(1000)}))
    found = SafetensorsBackend().read(path)
    with open(path, "r+b") as file:
        file.truncate(500)
    with pytest.raises(StorageError, match="changed or replaced"):
        found.tensors["layer_0"]


def test_a_tensor_called_like_the_metadata_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be called '__metadata__'"):
        SafetensorsBackend().write(tmp_path / "x.safetensors", Bundle({"__metadata__": torch.ones(1)}))


def test_a_name_that_is_not_unicode_text_is_refused(tmp_path):
    with pytest.raises(StorageError, match="not Unicode text"):
        SafetensorsBackend().write(tmp_path / "x.safetensors", Bundle({"\ud83d": torch.ones(1)}))


def test_a_dtype_that_the_format_lacks_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(StorageError, match=r"'layer_0' is complex128, which safetensors cannot hold.*bfloat16.*\.pkl"):
        SafetensorsBackend().write(
            tmp_path / "x.safetensors", Bundle({"layer_0": torch.ones(1, dtype=torch.complex128)})
        )


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def file_of(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


LIES = {
    "a header longer than the file": (b"\xff\xff\xff\xff\x00\x00\x00\x00{}", "declares a header of 4294967295 bytes"),
    "a header of 2**63 bytes": (b"\x00" * 7 + b"\x80{}", "declares a header"),
    "offsets beyond the data": (file_of({"a": entry([4], 0, 16)}), "take 16 bytes, and 8 follow"),
    "a shape larger than its offsets": (file_of({"a": entry([1 << 40], 0, 8)}), "takes 4398046511104 bytes"),
    "a shape that overflows": (file_of({"a": entry([1 << 62, 1 << 62], 0, 8)}), "more elements than can be counted"),
    "an empty shape that overflows": (
        file_of({"a": entry([1 << 62, 1 << 62, 0], 0, 0), "b": entry([2], 0, 8)}),
        "more elements than can be counted",
    ),
    "a negative size": (file_of({"a": entry([-2], 0, 8)}), r"has the shape \[-2\]"),
    "negative offsets": (file_of({"a": entry([2], -8, 0)}), r"offsets \[-8, 0\]"),
    "a size that is a boolean": (file_of({"a": entry([True, 2], 0, 8)}), "has the shape"),
    "a size that is a float": (file_of({"a": entry([2.0], 0, 8)}), "has the shape"),
    "tensors that overlap": (file_of({"a": entry([2], 0, 8), "b": entry([1], 0, 4)}), "starts at byte 0"),
    "a gap between tensors": (file_of({"a": entry([1], 4, 8)}), "starts at byte 4"),
    "bytes after the last tensor": (file_of({"a": entry([1], 0, 4)}), "take 4 bytes, and 8 follow"),
}

DAMAGES = {
    "a name twice": (file_of(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}'), "names 'a' twice"),
    "a key of an entry twice": (
        file_of(b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}'),
        "twice",
    ),
    "no JSON": (file_of(b"{nonsense"), "header is not JSON"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "header is not JSON"),
    "JSON that is no object": (file_of([1]), "not a JSON object"),
    "deep JSON": (file_of(b"[" * 100_000), "header is not JSON"),
    "an unknown dtype": (file_of({"a": entry([2], 0, 8, "F31")}), "has the dtype 'F31'"),
    "a dtype that is no string": (file_of({"a": entry([2], 0, 8, ["F32"])}), "has the dtype"),
    "an entry without a shape": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "describes 'a' by"),
    "metadata that is no object": (file_of({"__metadata__": 3, "a": entry([2], 0, 8)}), "map strings to strings"),
    "metadata that is no text": (file_of({"__metadata__": {"x": 1}, "a": entry([2], 0, 8)}), "map strings to strings"),
    "our metadata not JSON": (
        file_of({"__metadata__": {"actframe": "{"}, "a": entry([2], 0, 8)}),
        "'actframe'.*not JSON",
    ),
    "our metadata no object": (
        file_of({"__metadata__": {"actframe": "3"}, "a": entry([2], 0, 8)}),
        "not a JSON object",
    ),
    "planes of nothing": (
        file_of({"__metadata__": {"actframe.planes": '{"b": "F32"}'}, "a": entry([2], 0, 8)}),
        "'b' holds",
    ),
    "planes that are not": (
        file_of({"__metadata__": {"actframe.planes": '{"a": "F32"}'}, "a": entry([2], 0, 8)}),
        "'a' holds",
    ),
    "planes of no dtype": (
        file_of({"__metadata__": {"actframe.planes": '{"a": []}'}, "a": entry([2], 0, 8)}),
        "'a' holds",
    ),
    "planes of whole numbers": (
        file_of({"__metadata__": {"actframe.planes": '{"a": "I32"}'}, "a": entry([4, 2], 0, 8, "U8")}),
        "'a' holds",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_unsafe(tmp_path, lie):
    content, message = LIES[lie]
    path = tmp_path / "lie.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnsafeFileError, match=message):
        SafetensorsBackend().read(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_header_that_is_damaged_is_refused(tmp_path, damage):
    content, message = DAMAGES[damage]
    path = tmp_path / "damage.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        SafetensorsBackend().read(path)
