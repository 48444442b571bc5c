import pytest
import torch

from actframe.analysis.rows import describe, read_rows, sites_of
from actframe.errors import SelectionError, SiteError
from actframe.records.record import ActivationRecord


def make_record(**changes):
    rows = torch.arange(12, dtype=torch.bfloat16).reshape(4, 3)
    values = {
        "prompt": "What is\nthe capital of France?",
        "model": "smollm2",
        "activations": {"embeddings": rows, "layer_0": rows + 100, "layer_1": rows + 200},
        "positions": [0, 1, 2, 3],
        "site_positions": {},
        "prompt_length": 3,
    }
    return ActivationRecord({**values, **changes})


@pytest.mark.parametrize("record", [make_record(), dict(make_record())], ids=["record", "dictionary"])
def test_last_prompt_is_the_row_before_the_response(record):
    assert read_rows(record, "embeddings").vector_at("last_prompt").tolist() == [6, 7, 8]


def test_an_absolute_position_is_looked_up_and_not_counted_in_rows():
    record = make_record(positions=[5, 6, 7, 8])
    assert read_rows(record, "embeddings").vector_at(8).tolist() == [9, 10, 11]
    assert read_rows(record, "embeddings").vector_at("last").tolist() == [9, 10, 11]


def test_the_mean_leaves_out_the_attention_sink():
    assert read_rows(make_record(), "embeddings").vector_at("mean").tolist() == [6, 7, 8]
    only_sink = make_record(activations={"layer_0": torch.ones(1, 3)}, positions=[0])
    assert read_rows(only_sink, "layer_0").vector_at("mean").tolist() == [1, 1, 1]


def test_a_site_with_positions_of_its_own_is_looked_up_by_those():
    record = make_record(site_positions={"layer_1": [10, 11, 12, 13]})
    assert read_rows(record, "layer_1").positions == [10, 11, 12, 13]
    assert read_rows(record, "layer_0").positions == [0, 1, 2, 3]


def test_rows_that_were_reduced_have_no_positions():
    reduced = make_record(activations={"layer_0": torch.ones(1, 3)})
    assert read_rows(reduced, "layer_0").positions is None
    assert read_rows(reduced, "layer_0").vector_at("mean").tolist() == [1, 1, 1]
    with pytest.raises(SelectionError, match=r"layer_0 of 'smollm2: What is the capital.*' .*reduced"):
        read_rows(reduced, "layer_0").vector_at("last_prompt")


def test_attention_patterns_take_positions_along_their_second_last_axis():
    record = make_record(activations={"layer_0.attn_probs": torch.ones(2, 4, 4)})
    assert read_rows(record, "layer_0.attn_probs").positions == [0, 1, 2, 3]


def test_a_position_that_was_not_recorded_is_an_error_that_says_which_were():
    rows = read_rows(make_record(), "embeddings")
    with pytest.raises(SelectionError, match="no row for position 9; it holds positions 0 to 3"):
        rows.vector_at(9)
    scattered = make_record(positions=[0, 2, 4, 6])
    with pytest.raises(SelectionError, match="it holds positions 0, 2, 4, 6"):
        read_rows(scattered, "embeddings").vector_at(3)


def test_an_unknown_word_for_a_position_is_an_error_that_lists_the_words():
    with pytest.raises(SelectionError, match="no position 'first'; there are 'last_prompt', 'last', 'mean'"):
        read_rows(make_record(), "embeddings").vector_at("first")


def test_a_record_without_a_prompt_length_names_the_way_out():
    classic = {key: value for key, value in make_record().items() if key != "prompt_length"}
    with pytest.raises(SelectionError, match="does not say where its prompt ends; use 'last'"):
        read_rows(classic, "embeddings").vector_at("last_prompt")


def test_a_site_without_rows_is_an_error():
    empty = make_record(activations={"layer_0": torch.ones(0, 3)}, positions=[])
    with pytest.raises(SelectionError, match="no rows at all"):
        read_rows(empty, "layer_0").vector_at("last")


def test_sites_are_chosen_by_names_and_patterns_in_the_order_of_the_record():
    assert sites_of(make_record()) == ["embeddings", "layer_0", "layer_1"]
    assert sites_of(make_record(), ["layer_1", "layer_*", "embeddings"]) == ["embeddings", "layer_0", "layer_1"]
    assert sites_of(make_record(), ["blocks.1.hook_resid_post"]) == ["layer_1"]


def test_a_star_stays_within_a_dotted_part_as_it_does_when_sites_are_captured():
    record = make_record(activations={"layer_0": torch.ones(4, 3), "layer_0.mlp_out": torch.ones(4, 3)})
    assert sites_of(record, ["layer_*"]) == ["layer_0"]
    assert sites_of(record, ["**"]) == ["layer_0", "layer_0.mlp_out"]


def test_a_site_that_the_record_lacks_is_an_error_that_lists_its_sites():
    with pytest.raises(
        SiteError, match=r"no site 'layer_3' \(did you mean 'layer_1'\?\).*it has embeddings, layer_0 \.\. layer_1"
    ):
        sites_of(make_record(), ["layer_3"])


def test_a_long_prompt_is_shortened_in_messages():
    assert describe(make_record(prompt="word " * 30)) == "'smollm2: word word word word word word word word…'"
    assert describe({"activations": {}}) == "'unknown model: no prompt'"
