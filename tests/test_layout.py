"""The parts of a model, found by structure."""

import pytest
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from actframe.capture.layout import ModelLayout, Place, find_layout
from actframe.errors import LayoutError
from actframe.testing import FAMILIES, tiny_model

RESIDUAL = ["embeddings", "layer_0", "layer_1", "layer_2", "layer_3"]
INNER = ["resid_pre", "attn_out", "mlp_out", "mlp_act", "attn_probs"]
SANDWICHED = ["resid_pre", "attn_out", "attn_write", "mlp_out", "mlp_write", "mlp_act", "attn_probs"]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("t5", "bert", "mixtral")])
def test_a_decoder_has_every_site_of_the_table(family):
    places = find_layout(tiny_model(family)).places
    names = SANDWICHED if family in ("gemma2", "gemma3_text") else INNER
    inner = [f"layer_{index}.{name}" for name in names for index in range(4)]
    assert list(places) == [*RESIDUAL, *inner, "final_norm", "logits"]


def test_a_mixture_of_experts_has_router_logits_and_no_single_hidden_layer():
    places = find_layout(tiny_model("mixtral")).places
    assert places["layer_2.router_logits"].module == "model.layers.2.mlp.gate"
    assert not any("mlp_act" in site for site in places)


def test_an_encoder_has_neither_final_norm_nor_head_and_takes_what_is_written_before_residual_and_norm():
    places = find_layout(tiny_model("bert")).places
    assert not {"final_norm", "logits"} & set(places)
    assert places["layer_1.attn_out"].module == "encoder.layer.1.attention.output.dense"
    assert places["layer_1.mlp_out"].module == "encoder.layer.1.output.dense"
    assert places["layer_1.mlp_act"] == Place("encoder.layer.1.output.dense", "input")


def test_an_encoder_decoder_has_two_towers_and_one_head():
    layout = find_layout(tiny_model("t5"))
    assert [(tower.prefix, tower.root, len(tower.blocks)) for tower in layout.towers] == [
        ("encoder.", "encoder", 4),
        ("decoder.", "decoder", 4),
    ]
    assert layout.places["decoder.layer_1.mlp_out"].module == "decoder.block.1.layer.2.DenseReluDense"
    assert layout.places["logits"] == Place("lm_head", tower="decoder.", axes="logits")


@pytest.mark.parametrize(
    ("kind", "sizes", "stack"),
    [
        ("bart", {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
                  "encoder_attention_heads": 4, "decoder_attention_heads": 4}, ["encoder.layers", "decoder.layers"]),
        ("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 4}, ["h"]),
        ("falcon", {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}, ["h"]),
        ("gptj", {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 8}, ["h"]),
        ("vit", {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}, None),
    ],
)  # fmt: skip
def test_architectures_that_nobody_listed_are_found_too(kind, sizes, stack):
    vocabulary = {} if kind == "vit" else {"vocab_size": 50}
    layout = find_layout(AutoModel.from_config(AutoConfig.for_model(kind, **vocabulary, **sizes)))
    if stack is not None:
        assert [tower.blocks[0].rpartition(".")[0] for tower in layout.towers] == stack
    assert all(len(tower.blocks) in (2, 3) for tower in layout.towers)
    assert sum(site.endswith("attn_out") for site in layout.places) == sum(len(t.blocks) for t in layout.towers)


def test_the_head_is_found_where_the_class_has_one():
    config = tiny_model("llama").config
    assert "logits" in find_layout(AutoModelForCausalLM.from_config(config)).places
    assert "logits" not in find_layout(AutoModel.from_config(config)).places


def test_a_module_without_blocks_has_an_empty_layout():
    assert find_layout(nn.Linear(2, 2)) == ModelLayout()


def test_two_lists_that_could_both_be_the_blocks_are_an_error_that_names_them():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = nn.ModuleList([nn.Linear(2, 2)])
            self.right = nn.ModuleList([nn.Linear(2, 2)])

    with pytest.raises(LayoutError, match="several lists of modules in Twins could be its blocks: left, right"):
        find_layout(Twins())


def test_the_down_projection_is_decided_by_structure_where_sizes_are_equal():
    places = find_layout(tiny_model("llama", intermediate_size=32)).places
    assert places["layer_0.mlp_act"].module == "model.layers.0.mlp.down_proj"
