"""How records were computed and where their sites were taken: in the record itself, and of a store at once."""

import json

import pytest
import torch
from typer.testing import CliRunner

from actframe import ActivationRecord, ActivationRecorder, ActivationStore
from actframe.capture.available import available_sites, layout_of
from actframe.capture.layout import Place
from actframe.capture.receipt import describe_places
from actframe.cli.main import app
from actframe.testing import FAMILIES, random_record, tiny_model


def recorded(model, select=None, **settings):
    ids = torch.tensor([[1, 2, 3]])
    inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad(), ActivationRecorder(model, select, **settings) as recorder:
        model(ids, **inputs)
    return recorder.records[0]


def test_a_record_says_where_its_sites_were_taken_in_one_entry_for_all_layers():
    assert recorded(tiny_model("llama")).places == {
        "embeddings": "model.layers.0@input",
        "layer_{i}": "model.layers.{i}",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_place_of_every_site_is_told_by_its_record(family):
    model = tiny_model(family, attn_implementation="eager")
    record = recorded(model, available_sites(model))
    assert len(record.places) < len(record.sites) / 2
    for site, place in layout_of(model).places.items():
        path, _, end = record.place_of(site).partition("@")
        assert path.partition("[")[0] == place.module
        assert (end == "input") == (place.side == "input")


@pytest.mark.parametrize("select", ["decoder.layer_2.mlp_out", "decoder.layer_*.mlp_out"])
def test_the_number_of_a_layer_is_told_from_that_of_its_part(select):
    record = recorded(tiny_model("t5"), select)
    assert record.place_of("decoder.layer_2.mlp_out") == "decoder.block.2.layer.2.DenseReluDense"
    assert len(record.places) == 1


def test_layers_whose_parts_have_other_names_are_listed_beside_the_rest():
    parts = {f"layer_{i}.attn_out": Place(f"layers.{i}.{'mixer' if i == 1 else 'attention'}") for i in range(4)}
    described = describe_places(parts)
    assert described == {"layer_{i}.attn_out": "layers.{i}.attention", "layer_1.attn_out": "layers.1.mixer"}
    record = ActivationRecord({"places": described, "activations": {}})
    assert [record.place_of(site) for site in parts] == [place.module for place in parts.values()]


def test_one_block_that_is_called_for_every_layer_is_one_place():
    assert describe_places({f"layer_{i}": Place("shared.0") for i in range(3)}) == {"layer_{i}": "shared.0"}


def test_a_module_site_is_its_own_place():
    record = recorded(tiny_model("llama"), ["module:model.norm", "module:lm_head@input"])
    assert record.places == {}
    assert record.place_of("module:lm_head@input") == "lm_head@input"


def test_a_record_of_an_older_version_says_no_place():
    assert ActivationRecord({"activations": {}}).place_of("layer_0") is None
    assert recorded(tiny_model("llama"), "layer_*").place_of("embeddings") is None


# In stores


def said(**changes):
    return {"places": {"layer_{i}": "h.{i}"}, "attn_implementation": "sdpa", "batch_size": 4, **changes}


def fill(path, *kinds):
    with ActivationStore(path) as store:
        for number, kind in enumerate(kinds):
            store.append(random_record(number, **kind))
    return store


def show(path, *options):
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["show", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_store_says_each_way_in_which_its_records_were_made_once(tmp_path):
    store = fill(tmp_path / "s", *[said()] * 3, said(batch_size=1), said())
    first, second = store.receipts()
    assert (first.records, second.records) == (4, 1)
    assert first.said["places"] == {"layer_{i}": "h.{i}"}
    assert {**first.said, "batch_size": 1} == second.said
    assert [each.records for each in store[2:].receipts()] == [2, 1]
    assert store.where(trial=9).receipts() == []


def test_show_prints_the_receipt_and_the_batch_sizes(tmp_path):
    fill(tmp_path / "s", *[said()] * 3, said(batch_size=1))
    shown = show(tmp_path / "s")
    assert "bfloat16, sdpa attention, in batches of 4 (3 records) and 1 (1 record), live" in shown
    assert "by hooks at layer_{i} h.{i}" in shown
    assert "receipts" not in shown
    told = json.loads(show(tmp_path / "s", "--json"))["receipts"]
    assert [(each["records"], each["batch_size"]) for each in told] == [(3, 4), (1, 1)]


def test_show_tells_apart_what_was_made_in_other_ways(tmp_path):
    fill(tmp_path / "s", said(), said(strategy="output_hidden_states"), said(places={"layer_0": "x"}), said())
    shown = " ".join(show(tmp_path / "s").split())
    assert "3 receipts: how the records were computed and taken" in shown
    assert "records strategy places" in shown
    assert "2 hooks layer_{i} h.{i} 1 output_hidden_states layer_{i} h.{i} 1 hooks layer_0 x" in shown
    assert "bfloat16, sdpa attention, live" in shown


def test_records_of_before_have_a_receipt_without_places(tmp_path):
    store = fill(tmp_path / "s", {}, said())
    assert sorted("places" in each.said for each in store.receipts()) == [False, True]
    assert "2 receipts" in show(tmp_path / "s")
    alone = fill(tmp_path / "old", {})
    assert alone.receipts()[0].said["strategy"] == "hooks"
    assert "taken by hooks" in " ".join(show(tmp_path / "old").split())


def test_records_that_say_odd_things_have_receipts_too(tmp_path):
    odd = [
        {"attn_implementation": ["a"]},
        {"strategy": None},
        {"places": "here"},
        {"batch_size": 2.5},
        {"recorded": {"x": [1]}},
    ]
    store = fill(tmp_path / "s", *[said(**each) for each in odd])
    assert len(store.receipts()) == len(odd)
    assert "5 receipts" in show(tmp_path / "s")
    with ActivationStore(tmp_path / "none") as store:
        store.append({"activations": {"layer_0": torch.zeros(1, 2)}})
    assert store.receipts() == []
    assert "computed" not in show(tmp_path / "none")
