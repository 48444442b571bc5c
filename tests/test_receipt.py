"""Where the sites of a record were taken, in the record itself."""

import pytest
import torch

from actframe import ActivationRecord, ActivationRecorder
from actframe.capture.available import available_sites, layout_of
from actframe.capture.layout import Place
from actframe.capture.receipt import describe_places
from actframe.testing import FAMILIES, tiny_model


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
