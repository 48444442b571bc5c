"""Storage backend `pickle`: what it writes, whose pickles it reads, and what attacks it refuses."""

import collections
import copyreg
import functools
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actframe.errors import FormatError, StorageError, UnsafeFileError
from actframe.records.bundle import Bundle
from actframe.storage.pickle_ import PickleBackend
from actframe.storage.pickle_machine import Budget
from actframe.testing import DTYPES, StorageBackendTests, assert_same, assert_survives, random_tensor


class TestPickleBackend(StorageBackendTests):
    @pytest.fixture
    def backend(self):
        return PickleBackend()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.pkl"


def read(path, content):
    path.write_bytes(content)
    bundle = PickleBackend().read(path)
    return Bundle(dict(bundle.tensors), bundle.metadata)


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
    path = tmp_path_factory.mktemp("property") / "record.pkl"
    assert_survives(PickleBackend(), path, Bundle(tensors, {"seed": seed}))


def test_plain_pickle_gives_the_dictionary_without_actframe(path):
    tensors = {str(dtype): random_tensor(dtype, 3, 4) for dtype in DTYPES} | {
        "empty": torch.ones(0, 3).to(torch.uint16)
    }
    PickleBackend().write(path, Bundle(tensors, {"prompt": "hello", "input_ids": [1, 2]}))
    script = """
import pickle, sys, torch
sys.modules["actframe"] = None
with open(sys.argv[1], "rb") as file:
    record = pickle.load(file)
assert type(record) is dict and type(record["activations"]) is dict
assert list(record) == ["prompt", "input_ids", "activations"], list(record)
assert record["prompt"] == "hello" and record["input_ids"] == [1, 2]
for name, tensor in record["activations"].items():
    bits = bytes(tensor.reshape(-1).view(torch.uint8).tolist()).hex()
    print(name, tensor.dtype, tuple(tensor.shape), bits)
"""
    command = [sys.executable, "-W", "error", "-c", script, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{name} {tensor.dtype} {tuple(tensor.shape)} {bytes(tensor.reshape(-1).view(torch.uint8).tolist()).hex()}"
        for name, tensor in tensors.items()
    ]


def test_nothing_of_actframe_is_named_in_the_file(path):
    PickleBackend().write(path, Bundle({"layer_0": torch.nn.Parameter(torch.ones(3))}, {"prompt": "hello"}))
    assert b"actframe" not in path.read_bytes()
    names = {argument for _, argument, _ in pickletools.genops(path.read_bytes()) if isinstance(argument, str)}
    assert names == {
        *("prompt", "hello", "activations", "layer_0"),
        *("torch._utils", "_rebuild_tensor_v2", "torch.storage", "_load_from_bytes", "collections", "OrderedDict"),
    }


def test_a_view_of_a_large_tensor_is_written_without_the_rest(path):
    PickleBackend().write(path, Bundle({"layer_0": torch.zeros(128, 1024)[-1:]}))
    assert path.stat().st_size < 1024 * 4 + 1000


def test_a_dtype_that_is_not_read_back_is_not_written(path):
    quantized = torch.zeros(3, dtype=torch.uint8).view(torch.bits8)
    with pytest.raises(StorageError, match=r"'layer_0' is torch.bits8.*can hold bfloat16"):
        PickleBackend().write(path, Bundle({"layer_0": quantized}))
    assert not path.exists()


def test_metadata_called_activations_is_refused(path):
    with pytest.raises(StorageError, match="'activations'"):
        PickleBackend().write(path, Bundle({}, {"activations": 3}))


PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_plain_pickles_are_read(path, protocol, dtype):
    tensor = random_tensor(dtype, 3, 4)
    found = read(path, pickle.dumps({"activations": {"layer_0": tensor}}, protocol=protocol))
    assert_same(found.tensors["layer_0"], tensor)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_views_and_parameters_of_plain_pickles_are_read(path, protocol):
    whole = torch.arange(60.0).reshape(3, 4, 5)
    views = {
        "row": whole[1],
        "transposed": whole.permute(2, 0, 1),
        "stepped": whole[:, ::3, 1::2],
        "scalar": whole[2, 3, 4],
        "empty": whole[:0],
        "parameter": torch.nn.Parameter(whole),
    }
    found = read(path, pickle.dumps({"activations": views}, protocol=protocol))
    for name, view in views.items():
        assert_same(found.tensors[name], view.detach().contiguous())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "c16", "c8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
def test_numpy_arrays_of_plain_pickles_become_tensors(path, protocol, dtype):
    array = numpy.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {
        "layer_0": array,
        "layer_1": numpy.asfortranarray(array),
        "layer_2": array[:, ::2],
        "scalar": array[1, 2, 3:],
    }
    found = read(path, pickle.dumps({"activations": arrays}, protocol=protocol))
    for name, expected in arrays.items():
        assert_same(found.tensors[name], torch.from_numpy(numpy.ascontiguousarray(expected)))


def test_arrays_of_numpy_before_version_2_are_read(path):
    array = numpy.arange(6, dtype="f4")
    content = pickle.dumps({"activations": {"layer_0": array}}, protocol=2).replace(b"numpy._core", b"numpy.core")
    assert_same(read(path, content).tensors["layer_0"], torch.from_numpy(array))


def test_metadata_of_plain_pickles_becomes_plain(path):
    value = {
        "input_ids": torch.tensor([[1, 2, 3]]),
        "mask": numpy.array([True, False]),
        "score": numpy.float32(0.5),
        "count": numpy.int64(7),
        "shape": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cuda:1"),
        "pair": (1, None),
        "ordered": collections.OrderedDict(a=1),
        "activations": {},
    }
    assert read(path, pickle.dumps(value)).metadata == {
        "input_ids": [[1, 2, 3]],
        "mask": [True, False],
        "score": 0.5,
        "count": 7,
        "shape": [2, 3],
        "dtype": "bfloat16",
        "device": "cuda:1",
        "pair": [1, None],
        "ordered": {"a": 1},
    }


def test_a_dictionary_of_tensors_alone_is_read(path):
    found = read(path, pickle.dumps({"layer_0": torch.ones(2), "note": "x"}))
    assert list(found.tensors) == ["layer_0"]
    assert found.metadata == {"note": "x"}


def test_a_tensor_named_twice_is_counted_once(path):
    tensor = torch.ones(1000)
    found = read(path, pickle.dumps({"activations": {f"layer_{index}": tensor for index in range(100)}}))
    assert_same(found.tensors["layer_99"], tensor)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "unpickles to a list, not to a dictionary"),
        ({"activations": [torch.ones(1)]}, "'activations' are a list, not a dictionary"),
        ({"activations": {0: torch.ones(1)}}, "map 0 to a PickledTensor, not a site to a tensor"),
        ({"activations": {"layer_0": "x"}}, "map 'layer_0' to a str"),
        ({"activations": {"layer_0": [torch.ones(1)]}}, "map 'layer_0' to a list"),
        ({"raw": b"bytes"}, r"metadata\['raw'\] is a memoryview, which metadata cannot hold"),
        ({"nested": {3: "x"}}, r"metadata\['nested'\] has keys that are not strings"),
        ({"activations": {"layer_0": numpy.array([1.0], dtype=">f4")}}, "big-endian"),
        ({"activations": {"layer_0": numpy.array(["text"])}}, "has the dtype 'U4'"),
        ({"activations": {"layer_0": torch.ones(2, dtype=torch.complex64).conj()}}, "conjugated or negated view"),
    ],
)
def test_what_is_no_record_is_refused_with_what_it_is(path, value, message):
    with pytest.raises(FormatError, match=message):
        read(path, pickle.dumps(value))


def test_a_file_of_torch_save_is_refused_with_what_to_do(path):
    torch.save({"activations": {}}, path)
    with pytest.raises(FormatError, match=r"written by torch.save; load it with torch.load\(..., weights_only=True\)"):
        PickleBackend().read(path)


def test_bytes_after_the_pickle_are_refused(path):
    with pytest.raises(FormatError, match="3 bytes follow the end"):
        read(path, pickle.dumps({}) + b"xyz")


# Attacks. Each would, unpickled by Python, create the file that `marker` names, or take memory or time without end.


class Reduced:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _legacy_torch_payload(value):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


ATTACKS = {
    "os.system": lambda marker: Reduced(os.system, f"touch {marker}"),
    "eval": lambda marker: Reduced(eval, f"open({marker!r}, 'w')"),
    "exec": lambda marker: Reduced(exec, f"open({marker!r}, 'w')"),
    "open": lambda marker: Reduced(open, marker, "w"),
    "subprocess": lambda marker: Reduced(subprocess.check_call, ["touch", marker]),
    "functools.partial": lambda marker: Reduced(functools.partial, os.system, f"touch {marker}"),
    "getattr": lambda marker: Reduced(getattr, marker, "upper"),
    "copyreg": lambda marker: Reduced(copyreg._reconstructor, io.StringIO, object, None),
    "torch.load": lambda marker: Reduced(torch.load, marker),
    "torch.hub.load": lambda marker: Reduced(torch.hub.load, marker, "x"),
    "a torch.load within": lambda marker: Reduced(
        torch.storage._load_from_bytes, _legacy_torch_payload(Reduced(os.system, f"touch {marker}"))
    ),
    "a pickle within": lambda marker: Reduced(pickle.loads, pickle.dumps(Reduced(os.system, f"touch {marker}"))),
    "numpy.load": lambda marker: Reduced(numpy.load, marker),
    "numpy object array": lambda marker: numpy.array([Reduced(os.system, f"touch {marker}")], dtype=object),
    "a class of ours": lambda marker: Reduced(PickleBackend),
    "tensor subclass": lambda marker: Reduced(torch._tensor._rebuild_from_type_v2, os.system, os.system, (marker,), {}),
    "sparse tensor": lambda marker: torch.eye(2).to_sparse(),
    "quantized tensor": lambda marker: Reduced(torch._utils._rebuild_qtensor, 1, 2, 3, 4, 5, 6, 7),
    "a set": lambda marker: {1, 2},
}


@pytest.mark.filterwarnings("ignore:.*(Sparse|TypedStorage).*")
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_code_is_run(path, tmp_path, attack, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps({"prompt": "x", "activations": {"a": ATTACKS[attack](str(marker))}}, protocol=protocol)
    with pytest.raises(FormatError, match=r"pickle"):
        read(path, content)
    assert not marker.exists()


def test_the_refusal_names_what_was_asked_for(path):
    with pytest.raises(UnsafeFileError, match=r"asks for '(posix|nt)\.system', which unpickling would import"):
        read(path, pickle.dumps(Reduced(os.system, "true")))


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name_of(module, name):
    return text(module) + text(name) + b"\x93"


TENSOR = name_of("torch._utils", "_rebuild_tensor_v2")


def storage():
    """The instructions that make a storage of four float32."""
    payload = _legacy_torch_payload(torch.zeros(4)._typed_storage())
    return name_of("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(payload)) + payload + b"\x85R"


def number(value):
    return b"\x8a" + bytes([16]) + value.to_bytes(16, "little", signed=True)


def sizes(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(offset, shape, stride):
    """A pickle of a tensor of that storage."""
    arguments = storage() + number(offset) + sizes(*shape) + sizes(*stride) + b"\x89N"
    return b"\x80\x04}" + text("layer_0") + TENSOR + b"(" + arguments + b"tRs."


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_tensor_of_hand_made_instructions_is_read(path):
    assert_same(read(path, tensor(1, (3,), (1,))).tensors["layer_0"], torch.zeros(3))


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (2,), (4,)),
        (0, (2,), (2**62,)),
        (2**62, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2**62, 4), (1, 0)),
        (0, (2**40,), (0,)),
        (0, (5,), (0,)),
        (0, (2**62, 2**62, 0), (1, 1, 1)),
        (0, (2, 2), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (0, (2**63,), (1,)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_unsafe(path, offset, shape, stride):
    with pytest.raises(UnsafeFileError, match="a tensor has"):
        read(path, tensor(offset, shape, stride))


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_one_storage_named_many_times_takes_no_more_than_the_file_has(path):
    payload = _legacy_torch_payload(torch.zeros(10_000)._typed_storage())
    make = name_of("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(payload)) + payload + b"\x85R"
    again = b"(h\x00" + number(0) + sizes(10_000) + sizes(1) + b"\x89NtR"
    items = b"".join(text(f"layer_{index}") + TENSOR + again + b"s" for index in range(1000))
    with pytest.raises(UnsafeFileError, match="more bytes than the file has"):
        read(path, b"\x80\x04" + make + b"q\x000}" + items + b".")


def payload_with(**changes):
    """The old torch.save's bytes of a storage of four float32, with parts replaced."""
    parts = {
        "magic": 0x1950A86A20F9469CFC6C,
        "version": 1001,
        "system": {"little_endian": True},
        "kind": b"ctorch\nFloatStorage\n",
        "count": 4,
        "keys": ["0"],
        "declared": 4,
        "data": bytes(16),
        **changes,
    }
    reference = (
        b"\x80\x02(" + text("storage") + parts["kind"] + text("0") + text("cpu") + number(parts["count"]) + b"NtQ."
    )
    header = b"".join(pickle.dumps(parts[part], protocol=2) for part in ("magic", "version", "system"))
    return (
        header
        + reference
        + pickle.dumps(parts["keys"], protocol=2)
        + struct.pack("<Q", parts["declared"])
        + parts["data"]
    )


def pickle_with(payload):
    make = name_of("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(payload)) + payload + b"\x85R"
    return b"\x80\x04}" + text("layer_0") + TENSOR + b"(" + make + number(0) + sizes(4) + sizes(1) + b"\x89NtRs."


def test_a_storage_of_hand_made_parts_is_read(path):
    assert_same(read(path, pickle_with(payload_with())).tensors["layer_0"], torch.zeros(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 3}, "not in the format of the old torch.save"),
        ({"version": 1002}, "not in the format of the old torch.save"),
        ({"system": {"little_endian": False}}, "not little-endian"),
        ({"system": [1]}, "not little-endian"),
        ({"count": 5}, "declares 5 elements, and then 4"),
        ({"count": 2**60, "declared": 2**60}, "declares 4611686018427387904 bytes and has 16"),
        ({"count": -4}, "a size that is no size"),
        ({"data": bytes(15)}, "declares 16 bytes and has 15"),
        ({"data": bytes(17)}, "declares 16 bytes and has 17"),
        ({"keys": ["0", "1"]}, "does not hold exactly one storage"),
        ({"kind": b"cos\nsystem\n"}, "asks for 'os.system'"),
        ({"kind": text("FloatStorage")}, "of a class that is not known"),
    ],
)
def test_a_storage_that_lies_is_refused(path, changes, message):
    with pytest.raises(FormatError, match=message):
        read(path, pickle_with(payload_with(**changes)))


def numpy_pickle(array, old, new):
    content = pickle.dumps({"activations": {"layer_0": array}}, protocol=4)
    assert content.count(old) == 1
    frame = b"\x95" + struct.pack("<Q", len(content) - 11)
    return content.replace(frame, b"").replace(old, new)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (b"K\x03K\x03\x86", "lies outside of its 24 bytes"),
        (b"K\x02K\x02\x86", "takes 16 bytes and has 24"),
        (b"K\x02J\xff\xff\xff\xff\x86", "a tensor has -1 as a size"),
        (b"K\x02N\x86", "a tensor has a NoneType as a size"),
        (b"K\x02" + number(2**62) + b"\x86", "more elements than can be counted|takes"),
    ],
)
def test_an_array_of_another_size_than_its_bytes_is_unsafe(path, new, message):
    with pytest.raises(UnsafeFileError, match=message):
        read(path, numpy_pickle(numpy.zeros((2, 3), "f4"), b"K\x02K\x03\x86", new))


BOMBS = {
    "bytes of 2**60": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".", "1152921504606846976 more were expected"),
    "bytes of 2**64 - 1": (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "more were expected"),
    "text of 2**60": (b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b".", "more were expected"),
    "a bytearray of 2**60": (b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b".", "more were expected"),
    "a frame of 2**60": (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".", "declares a frame"),
    "an integer of 2**31": (b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b".", "an integer of 2147483647 bytes"),
    "an integer of 1 MB": (b"\x80\x04\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b".", "16 are the most"),
    "a memo of 2**32": (b"\x80\x04Nr\xff\xff\xff\xff0}.", None),
    "lists within lists": (b"\x80\x04}" + text("x") + b"]" * 100_000 + b"a" * 99_999 + b"s.", "more than 64 deep"),
    "tuples within tuples": (b"\x80\x04}" + text("x") + b")" + b"\x85" * 100_000 + b"s.", "more than 64 deep"),
    "keys of one hash": (
        b"\x80\x04}(" + b"".join(number(index * (2**61 - 1)) + b"N" for index in range(1, 50_000)) + b"u.",
        "neither strings nor small integers",
    ),
    "a list within itself": (b"\x80\x04}" + text("x") + b"]\x94h\x00as.", "more than 64 deep"),
    "text encoded a thousand times": (
        b"\x80\x02" + b"X" + struct.pack("<I", 10**5) + b"x" * 10**5 + b"q\x00" + b"X\x06\0\0\0latin1q\x01"
        + b"0c_codecs\nencode\nq\x020}"
        + b"".join(text(f"{index}") + b"h\x02h\x00h\x01\x86Rs" for index in range(1000)) + b".",
        "more bytes than the file has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_costs_memory(path, bomb):
    content, message = BOMBS[bomb]
    path.write_bytes(content)
    tracemalloc.start()
    try:
        if message is None:
            assert dict(PickleBackend().read(path).tensors) == {}
        else:
            with pytest.raises(FormatError, match=message):
                PickleBackend().read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


ENDLESS = {
    "duplicates": b"N" + b"2" * 20_000,
    "marks": b"(" * 20_000,
    "lists": b"]" * 20_000,
    "a tree of 10**30 leaves": b"}" + text("x") + b"]\x94" + b"".join(
        b"0](" + b"h%c" % index * 10 + b"e\x94" for index in range(30)
    ) + b"s",
    "a tensor as numbers": pickle.dumps({"x": torch.zeros(20_000), "activations": {}}, protocol=4)[2:-1],
}  # fmt: skip


def test_steps_limit_the_memory_that_short_instructions_take(path):
    path.write_bytes(b"\x80\x04" + (b"]" * 10 + b"\x94" * 10 + b")\x85" * 10) * 100_000 + b".")
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeFileError, match="more than 8388608 steps"):
            PickleBackend().read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("endless", ENDLESS)
def test_steps_are_limited(path, monkeypatch, endless):
    monkeypatch.setattr("actframe.storage.pickle_.Budget", lambda: Budget(10_000))
    with pytest.raises(UnsafeFileError, match="more than 10000 steps"):
        read(path, b"\x80\x04" + ENDLESS[endless] + b".")


def test_steps_suffice_for_the_ids_of_a_million_tokens(path):
    metadata = {"input_ids": list(range(2**20)), "positions": list(range(2**20))}
    PickleBackend().write(path, Bundle({}, metadata))
    assert PickleBackend().read(path).metadata == metadata


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04R.", "takes a value that is not there"),
        (b"\x80\x04NNR.", "calls 'a NoneType', which is not allowed"),
        (b"\x80\x04" + TENSOR + b"NR.", "calls 'torch._utils._rebuild_tensor_v2', which is not allowed"),
        (b"\x80\x04" + TENSOR + b")R.", "arguments that do not fit"),
        (b"\x80\x04" + name_of("torch", "float32") + b")R.", "calls 'torch.float32', which is not allowed"),
        (b"\x80\x04}}b.", "sets the state of a dict"),
        (b"\x80\x04NQ.", "refers to objects outside of itself"),
        (b"\x80\x04P0\n.", "instruction 'P'"),
        (b"\x80\x04\x82\x01.", r"\(0x82\), which is not read"),
        (b"\x80\x04cos\nsystem\n.", "asks for 'os.system'"),
        (b"\x80\x04(ios\nsystem\n.", "instruction 'i'"),
        (b"\x80\x04)\x81.", r"\(0x81\), which is not read"),
        (b"\x80\x04NN\x93.", "a name that is not text"),
        (b"\x80\x04h\x00.", "refers to value 0, which it has not stored"),
        (b"\x80\x04e.", "a mark that is not there"),
        (b"\x80\x04((e.", "adds to a list that is not there"),
        (b"\x80\x04}N)s.", "neither strings nor small integers"),
        (b"\x80\x04}(Nu.", "neither strings nor small integers"),
        (b"\x80\x04\x8c\x02\xff\xff.", "text that is not UTF-8"),
        (b"\x80\x04c" + b"x" * 5000, "a line without an end"),
        (b"\x80\x04N", "cut short"),
    ],
)
def test_instructions_that_make_no_sense_are_refused(path, content, message):
    with pytest.raises(FormatError, match=message):
        read(path, content)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_get_further_than_a_refusal(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "x.pkl"
    path.write_bytes(b"\x80\x04" + content)
    try:
        bundle = PickleBackend().read(path)
        dict(bundle.tensors)
    except StorageError:
        pass


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_no_changed_bytes_get_further_than_a_refusal(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "x.pkl"
    values = {"a": torch.arange(4.0), "b": torch.ones(3).to(torch.float8_e5m2), "c": numpy.arange(6).reshape(2, 3)}
    content = bytearray(pickle.dumps({"prompt": "hello", "ids": [1, 2, 3], "activations": values}))
    for position, byte in changes:
        content[position % len(content)] = byte
    path.write_bytes(content)
    try:
        bundle = PickleBackend().read(path)
        dict(bundle.tensors)
    except StorageError:
        pass
