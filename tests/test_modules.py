"""`module:` sites and whole models, where sizes that are all equal leave only structure to decide."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from actframe import ActivationRecorder, CaptureError, SiteError
from actframe.capture.axes import to_rows
from actframe.capture.calls import Call
from actframe.capture.layout import Place, find_layout
from actframe.capture.modules import module_places
from actframe.testing import tiny_model

N = 4
TINY = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": N,
    "num_key_value_heads": N, "head_dim": 4,
}  # fmt: skip
FSMT = {
    "langs": ["en", "de"], "src_vocab_size": 50, "tgt_vocab_size": 50, "d_model": 8, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12, "decoder_start_token_id": 2,
}  # fmt: skip
KINDS = {
    "xlnet": {"d_model": N, "n_layer": 2, "n_head": 1, "d_inner": N},
    "fsmt": FSMT,
    "gemma3n_text": {
        **DECODER, "altup_num_inputs": N, "laurel_rank": 4, "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": 50, "num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 2,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "llama": {**DECODER, "hidden_size": N, "head_dim": 2, "intermediate_size": N},
    "opt": {"hidden_size": N, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": N, "word_embed_proj_dim": N,
            "max_position_embeddings": 64},
}  # fmt: skip


def build(kind, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**TINY, **KINDS[kind], **more})
    return AutoModel.from_config(config, attn_implementation="eager").eval()


def record(model, select, **inputs):
    with torch.no_grad(), ActivationRecorder(model, select) as recorder:
        model(**inputs)
    return recorder.records


def inputs_of(kind):
    torch.manual_seed(1)
    ids = torch.randint(3, 50, (N, N))
    return {"input_ids": ids, **({"decoder_input_ids": ids.flip(0)} if kind == "fsmt" else {})}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_as_large_as_it_is_long_gives_each_row_what_it_gives_alone(kind):
    model, inputs = build(kind), inputs_of(kind)
    sites = [site for site in find_layout(model).places if not site.endswith("attn_probs")]
    together = record(model, sites, **inputs)
    for row, ours in enumerate(together):
        (alone,) = record(model, sites, **{name: value[row : row + 1] for name, value in inputs.items()})
        assert list(ours.activations) == list(alone.activations)
        for site, tensor in alone.activations.items():
            torch.testing.assert_close(ours.activations[site], tensor, rtol=1e-4, atol=1e-5, msg=site)


def test_streams_are_an_axis_of_their_own():
    (ours, *_) = record(build("gemma3n_text"), None, **inputs_of("gemma3n_text"))
    assert {tensor.shape for tensor in ours.activations.values()} == {(N, N, 8)}
    assert find_layout(build("gemma3n_text")).places["layer_0"].streams == N


def test_modules_of_a_model_that_puts_positions_first_are_read_so():
    model, inputs = build("fsmt"), inputs_of("fsmt")
    site = "module:encoder.layers.0.fc1"
    for row, ours in enumerate(record(model, site, **inputs)):
        (alone,) = record(model, site, **{name: value[row : row + 1] for name, value in inputs.items()})
        torch.testing.assert_close(ours.activations[site], alone.activations[site], rtol=1e-4, atol=1e-5)


def test_modules_of_an_mlp_that_flattens_its_tokens_get_their_positions_back():
    model, inputs = build("opt"), inputs_of("opt")
    fc1, act = "module:decoder.layers.0.fc1", "layer_0.mlp_act"
    for ours in record(model, [fc1, act], **inputs):
        assert torch.equal(ours.activations[fc1].relu(), ours.activations[act])


def test_a_module_that_transposes_for_itself_is_known():
    config = AutoConfig.for_model(
        "longformer", **TINY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        attention_window=[4], max_position_embeddings=64,
    )  # fmt: skip
    model = AutoModel.from_config(config).eval()
    site = "module:encoder.layer.0.attention.self.query"
    ours = record(model, [site, f"{site}@input", "embeddings"], input_ids=inputs_of("")["input_ids"])
    for each in ours:
        assert torch.equal(each.activations[f"{site}@input"], each.activations["embeddings"])


class Recurrent(torch.nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.lstm = torch.nn.LSTM(N, N, batch_first=batch_first)
        self.attention = torch.nn.MultiheadAttention(N, 2, batch_first=batch_first)

    def forward(self, values):
        values = self.lstm(values)[0]
        return self.attention(values, values, values)[0]


@pytest.mark.parametrize("batch_first", [True, False])
def test_modules_of_torch_say_whether_the_batch_comes_first(batch_first):
    model, values = Recurrent(batch_first).eval(), torch.randn(N, N, N)
    ours = record(model, ["module:lstm", "module:attention"], values=values)
    with torch.no_grad():
        outputs = {"module:lstm": model.lstm(values)[0], "module:attention": model(values)}
    for row, each in enumerate(ours):
        for site, output in outputs.items():
            assert torch.equal(each.activations[site], output[row] if batch_first else output[:, row])


def test_what_a_single_expert_sees_is_refused():
    class Moe(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = torch.nn.ModuleList([torch.nn.Linear(N, N) for _ in range(2)])

        def forward(self, values):
            tokens = values.flatten(0, 1).flip(0)  # an order of its own
            return self.experts[0](tokens).flip(0).view_as(values)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Moe()

        def forward(self, values):
            return values + self.mlp(values)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([Block()])

        def forward(self, values):
            return self.layers[0](values)

    single = "module:layers.0.mlp.experts.0"
    with pytest.raises(SiteError, match="one of several experts, which see some of the tokens, in an order of their"):
        ActivationRecorder(Model(), ["layer_0", single])
    assert single not in ActivationRecorder(Model(), "module:**").sites
    with pytest.raises(CaptureError, match="of some of the tokens, in an order of their own"):
        to_rows(single, Place("", axes="routed"), torch.zeros(N, N), Call(rows=N, width=1))


def test_a_convolution_has_no_positions_but_those_of_its_rows():
    model, pixels = torch.nn.Sequential(torch.nn.Conv2d(3, N, 3), torch.nn.ReLU()), torch.randn(2, 3, 6, 6)
    with torch.no_grad(), ActivationRecorder(model, "module:0") as recorder:
        expected = model[0](pixels)
        model(pixels)
    assert torch.equal(torch.stack([each.activations["module:0"] for each in recorder.records]), expected[:, None])
    (place,) = [each for site, each in module_places(model, find_layout(model)).items() if site == "module:0"]
    assert place.axes == "row"


def test_the_other_strategy_leaves_out_what_is_not_laid_out_as_usual():
    with pytest.raises(SiteError, match="not laid out as \\(batch, pos, d_model\\).*use strategy='hooks'"):
        ActivationRecorder(build("xlnet"), "layer_0", strategy="output_hidden_states")
    assert ActivationRecorder(tiny_model("llama"), "layer_0", strategy="output_hidden_states").sites == ["layer_0"]
