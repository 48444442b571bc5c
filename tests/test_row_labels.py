import pytest
import torch

from actframe import ActivationStore, Bundle, RowLabels
from actframe.records.packing import pack
from actframe.storage.files import read_bundle
from actframe.testing import random_record


def shard_of(folder, records):
    with ActivationStore(folder) as store:
        for record in records:
            store.append(record)
    (shard,) = (folder / "shards").iterdir()
    return read_bundle(shard)


def test_rows_of_a_shard_are_those_of_its_records_in_their_order(tmp_path):
    labels = RowLabels(shard_of(tmp_path / "run", [random_record(0, 3), random_record(1, 2)]))
    (group,) = labels.groups
    assert group.names == ["embeddings", "layer_0", "layer_1"]
    assert group.records.tolist() == [0, 0, 0, 1, 1]
    assert group.positions.tolist() == [0, 1, 2, 0, 1]
    assert [said["question_id"] for said in labels.said] == ["sums/0", "sums/1"]


def test_one_record_is_labelled_as_a_shard_of_it_is(tmp_path):
    record = random_record(3, 4)
    one, many = RowLabels(pack(record)), RowLabels(shard_of(tmp_path / "run", [record]))
    assert one.said == many.said
    for found, expected in zip(one.groups, many.groups, strict=True):
        assert found.names == expected.names
        assert found.records.tolist() == expected.records.tolist()
        assert found.positions.tolist() == expected.positions.tolist()


def test_sites_at_other_positions_or_of_other_records_are_groups_of_their_own(tmp_path):
    first = random_record(0, 3).replace(site_positions={"layer_1": [7]})
    activations = {**first.activations, "layer_1": torch.ones(1, 16).bfloat16()}
    second = random_record(1, 3, sites=["layer_0"])
    records = [first.replace(activations=activations), second]
    labels = RowLabels(shard_of(tmp_path / "run", records))
    found = {
        name: (group.records.tolist(), group.positions.tolist()) for group in labels.groups for name in group.names
    }
    assert found == {
        "embeddings": ([0, 0, 0], [0, 1, 2]),
        "layer_0": ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]),
        "layer_1": ([0], [7]),
    }


def test_rows_that_were_reduced_have_no_position():
    record = {"positions": [0, 1, 2], "activations": {"layer_0": torch.ones(1, 4), "layer_1": torch.ones(3, 4)}}
    reduced, whole = RowLabels(pack(record)).groups
    assert (reduced.names, reduced.positions.tolist()) == (["layer_0"], [-1])
    assert (whole.names, whole.positions.tolist()) == (["layer_1"], [0, 1, 2])


@pytest.mark.parametrize(
    "positions", [None, "abc", [0, "1", 2], [0, 1, -2], [0.0, 1.0, 2.0], [True, 1, 2], [2**70, 0, 1]]
)
def test_what_a_record_says_of_its_positions_need_not_make_sense(positions):
    (group,) = RowLabels(pack({"positions": positions, "activations": {"layer_0": torch.ones(3, 4)}})).groups
    assert group.positions.tolist() == [-1, -1, -1]


def test_attention_patterns_and_single_numbers_have_elements_and_no_rows_of_positions(tmp_path):
    tensors = {"layer_0.attn_probs": torch.ones(2, 3, 3), "layer_1": torch.tensor(1.0)}
    first = random_record(0, 2).replace(activations=tensors)
    same = random_record(1, 2).replace(activations=tensors)
    other = random_record(2, 2).replace(activations={"layer_0.attn_probs": torch.ones(2, 4, 4)})

    def sizes(bundle):
        labels = RowLabels(bundle)
        assert labels.groups == []
        return {name: size.tolist() for name, size in labels.sizes.items()}

    assert sizes(pack(first)) == {"layer_0.attn_probs": [18], "layer_1": [1]}
    two, three = shard_of(tmp_path / "two", [first, same]), shard_of(tmp_path / "three", [first, same, other])
    assert sizes(two) == {"layer_0.attn_probs": [18, 18], "layer_1": [1, 1]}
    assert sizes(three) == {"layer_0.attn_probs": [18, 18, 32], "layer_1": [1, 1, 0]}


def test_a_bundle_of_something_else_says_nothing():
    labels = RowLabels(Bundle({"layer_0": torch.ones(2, 2)}, {"prompt": "hello"}))
    assert (labels.said, labels.groups, labels.columns) == ([], [], {})


def test_columns_are_of_one_kind_and_none_where_a_record_says_nothing(tmp_path):
    records = [
        random_record(0, 2, score=1, mixed=1, only=True),
        random_record(1, 2, score=0.5, mixed="one"),
    ]
    columns = RowLabels(shard_of(tmp_path / "run", records)).columns
    assert columns["question_id"] == ["sums/0", "sums/1"]
    assert columns["correct"] == [True, False]
    assert columns["only"] == [True, None]
    assert columns["score"] == [1.0, 0.5]
    assert [type(value) for value in columns["score"]] == [float, float]
    assert not columns.keys() & {"mixed", "input_ids", "positions", "sites", "site_positions"}
