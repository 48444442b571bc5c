"""Site names, other spellings of them, and patterns."""

import pytest

from actframe.capture.sites import canonical, expand, layer_site
from actframe.errors import SiteError

SITES = [
    "embeddings",
    *(f"layer_{i}" for i in range(12)),
    *(f"layer_{i}.mlp_out" for i in range(12)),
    "final_norm",
    "logits",
]
TOWERS = ["encoder.embeddings", "encoder.layer_0", "encoder.layer_1", "decoder.embeddings", "decoder.layer_0"]


@pytest.mark.parametrize(
    ("spelling", "site"),
    [
        ("hidden_states[0]", "embeddings"),
        ("resid_post.3", "layer_3"),
        ("blocks.11.hook_resid_post", "layer_11"),
        ("resid_pre.0", "layer_0.resid_pre"),
        ("blocks.0.hook_resid_pre", "layer_0.resid_pre"),
        ("attn_out.2", "layer_2.attn_out"),
        ("blocks.2.hook_attn_out", "layer_2.attn_out"),
        ("mlp_out.7", "layer_7.mlp_out"),
        ("mlp_act.7", "layer_7.mlp_act"),
        ("blocks.7.mlp.hook_post", "layer_7.mlp_act"),
        ("blocks.1.attn.hook_pattern", "layer_1.attn_probs"),
        ("encoder.blocks.1.hook_resid_post", "encoder.layer_1"),
        ("decoder.mlp_act.3", "decoder.layer_3.mlp_act"),
        ("layer_3.attn_out", "layer_3.attn_out"),
        ("module:model.layers.0", "module:model.layers.0"),
        ("nonsense", "nonsense"),
    ],
)
def test_other_spellings_mean_one_site(spelling, site):
    assert canonical(spelling) == site


def test_a_star_stays_within_a_dotted_part_and_two_cross_it():
    assert expand("layer_*", SITES) == [f"layer_{i}" for i in range(12)]
    assert expand("layer_?", SITES) == [f"layer_{i}" for i in range(10)]
    assert expand("layer_*.mlp_out", SITES) == [f"layer_{i}.mlp_out" for i in range(12)]
    assert expand("**", SITES) == SITES
    assert expand("*.layer_*", TOWERS) == ["encoder.layer_0", "encoder.layer_1", "decoder.layer_0"]


def test_a_name_without_a_site_says_what_there_is():
    with pytest.raises(SiteError) as error:
        expand("layer_3.mlp_ou", SITES)
    assert str(error.value) == (
        "no site 'layer_3.mlp_ou' in this model (did you mean 'layer_3.mlp_out'?); it has embeddings, "
        "layer_0 .. layer_11, layer_0.mlp_out .. layer_11.mlp_out, final_norm, logits, "
        "and module:<dotted path> for any module"
    )


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(SiteError, match="no site 'head_\\*'"):
        expand("head_*", SITES)


def test_layers_count_from_the_end_too_and_in_every_tower():
    assert layer_site(-1, SITES) == ["layer_11"]
    assert layer_site(0, TOWERS) == ["encoder.layer_0", "decoder.layer_0"]
    assert layer_site(1, TOWERS) == ["encoder.layer_1"]


@pytest.mark.parametrize("index", [12, -13])
def test_a_layer_that_does_not_exist_says_how_many_there_are(index):
    with pytest.raises(SiteError, match=f"no layer {index}: the number of layers is 12"):
        layer_site(index, SITES)


def test_what_is_added_to_the_stream_has_its_name_in_transformerlens_whether_a_norm_stands_before_or_not():
    plain = ["layer_0.attn_out", "layer_0.mlp_out"]
    sandwiched = [*plain, "layer_0.attn_write", "layer_0.mlp_write"]
    assert expand("blocks.0.hook_attn_out", plain) == ["layer_0.attn_out"]
    assert expand("blocks.0.hook_attn_out", sandwiched) == ["layer_0.attn_write"]
    assert expand("blocks.0.hook_mlp_out", sandwiched) == ["layer_0.mlp_write"]
    assert expand("attn_out.0", sandwiched) == ["layer_0.attn_out"]
    assert expand("mlp_write.0", sandwiched) == ["layer_0.mlp_write"]
