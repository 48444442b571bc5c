"""Records <-> bundles."""

import enum
import json
import math

import numpy
import pytest
import torch

from actframe.errors import FormatError, StorageError
from actframe.records.bundle import Bundle, LazyTensors
from actframe.records.packing import FORMAT, json_safe, pack, unpack
from actframe.records.record import ActivationRecord


def record(**changes):
    values = {
        "prompt": "What is the capital of France?",
        "response": "Paris.",
        "model": "smollm2",
        "input_ids": [1, 2, 3],
        "activations": {"embeddings": torch.ones(3, 4), "layer_0": torch.zeros(3, 4)},
    }
    return ActivationRecord({**values, **changes})


def test_a_record_survives_packing_and_unpacking():
    before = record(correct=True, score=0.5, expected=None)
    after = unpack(pack(before))
    assert dict(after) == dict(before)


def test_a_bundle_holds_the_activations_as_tensors_and_every_other_key_as_metadata():
    bundle = pack(record())
    assert list(bundle.tensors) == ["embeddings", "layer_0"]
    assert bundle.metadata == {
        "prompt": "What is the capital of France?",
        "response": "Paris.",
        "model": "smollm2",
        "input_ids": [1, 2, 3],
        "format": "record/1",
    }


def test_packing_shares_tensors():
    before = record()
    assert pack(before).tensors["layer_0"] is before.activations["layer_0"]


def test_a_plain_dictionary_is_packed_like_a_record():
    assert pack(dict(record())).metadata == pack(record()).metadata


def test_unpacking_reads_no_tensor():
    def load(name):
        raise AssertionError(f"{name} was read")

    after = unpack(Bundle(LazyTensors(["layer_0"], load), {"format": FORMAT}))
    assert list(after.activations) == ["layer_0"]


def test_an_unknown_format_is_refused_with_the_known_one():
    with pytest.raises(FormatError, match=r"format is 'record/2'.*reads 'record/1'"):
        unpack(Bundle({}, {"format": "record/2"}))


def test_a_bundle_without_a_format_is_taken_as_it_is():
    assert dict(unpack(Bundle({}, {"prompt": "hello"}))) == {"prompt": "hello", "activations": {}}


@pytest.mark.parametrize("value", [{"prompt": "no activations"}, {"activations": torch.ones(2)}, 3, None])
def test_what_is_no_record_is_refused(value):
    with pytest.raises(StorageError, match="'activations' maps sites to tensors"):
        pack(value)


def test_a_tensor_outside_activations_is_refused_by_name_and_shape():
    with pytest.raises(
        StorageError, match=r"metadata\['scores'\]\[1\] is of type torch.Tensor and shape \(2,\).*tolist"
    ):
        pack(record(scores=[1.0, torch.ones(2)]))


def test_a_key_that_is_no_string_is_refused():
    with pytest.raises(StorageError, match=r"metadata\['by_layer'\] has the key 3 of type int; keys must be strings"):
        pack(record(by_layer={3: "x"}))


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), 1j, numpy.int64(3)])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(StorageError, match="JSON cannot hold"):
        json_safe({"extra": value})


def test_metadata_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(StorageError, match="nested more than 64 deep, or contains itself"):
        json_safe({"loop": loop})


def test_subclasses_become_the_builtin_they_specialise():
    class Colour(enum.IntEnum):
        RED = 3

    class Name(str, enum.Enum):  # noqa: UP042 (its str() differs from its value, which is the point)
        SCORE = "score"

    safe = json_safe({Name.SCORE: numpy.float64(0.5), "colour": Colour.RED, "name": Name.SCORE, "pair": (1, 2)})
    assert [type(value) for value in safe.values()] == [float, int, str, list]
    assert {type(key) for key in safe} == {str}
    assert json.loads(json.dumps(safe)) == safe == {"score": 0.5, "colour": 3, "name": "score", "pair": [1, 2]}


@pytest.mark.parametrize("container", [list, tuple])
def test_one_odd_element_among_many_plain_ones_is_found(container):
    class Colour(enum.IntEnum):
        RED = 3

    plain = [1, 2.5, "x", None, True, math.inf] * 100
    safe = json_safe({"values": container([*plain, Colour.RED, numpy.float64(0.5), (1, 2)])})["values"]
    assert safe == [*plain, 3, 0.5, [1, 2]]
    assert [type(value) for value in safe[-3:]] == [int, float, list]
    assert json_safe({"values": container(plain)}) == {"values": plain}
    with pytest.raises(StorageError, match=r"metadata\['values'\]\[600\] is of type numpy.int64"):
        json_safe({"values": container([*plain, numpy.int64(3)])})


def test_the_deepest_level_is_the_same_for_lists_of_plain_values():
    def nested(levels, inmost):
        for _ in range(levels):
            inmost = [inmost]
        return {"deep": inmost}

    assert json_safe(nested(63, 1)) == nested(63, 1)
    assert json_safe(nested(63, [])) == nested(63, [])
    with pytest.raises(StorageError, match="nested more than 64 deep"):
        json_safe(nested(63, [1]))


def test_numbers_that_are_not_finite_are_kept():
    safe = json.loads(json.dumps(json_safe({"perplexity": math.inf, "loss": math.nan})))
    assert safe["perplexity"] == math.inf
    assert math.isnan(safe["loss"])


def test_json_safe_copies_what_may_change_later():
    ids = [1, 2]
    safe = json_safe({"ids": ids})
    ids.append(3)
    assert safe == {"ids": [1, 2]}
