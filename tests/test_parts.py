"""The parts of blocks, proved by numbers: what is written to the residual stream is what is added to it."""

import pytest
import torch
from zoo.outcome import accepted_inputs, build, run

from actframe import ActivationRecorder, SiteError
from actframe.capture.layout import find_layout

SEQUENTIAL = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "phi3": "Phi3ForCausalLM", "gemma": "GemmaForCausalLM", "gpt2": "GPT2LMHeadModel",
    "gpt_bigcode": "GPTBigCodeForCausalLM", "gpt_neo": "GPTNeoForCausalLM", "opt": "OPTForCausalLM",
    "bloom": "BloomForCausalLM", "mpt": "MptForCausalLM", "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM", "nemotron": "NemotronForCausalLM", "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM", "gpt_oss": "GptOssForCausalLM",
    "jamba": "JambaForCausalLM", "qwen3_next": "Qwen3NextForCausalLM", "lfm2_moe": "Lfm2MoeForCausalLM",
    "recurrent_gemma": "RecurrentGemmaForCausalLM", "mamba": "MambaForCausalLM", "cpmant": "CpmAntForCausalLM",
    "bitnet": "BitNetForCausalLM", "mt5": "MT5ForConditionalGeneration", "longt5": "LongT5ForConditionalGeneration",
    "m2m_100": "M2M100ForConditionalGeneration",
    "vit": "ViTModel", "clip_vision_model": "CLIPVisionModel",
    "qwen2_5_vl_vision": "Qwen2_5_VisionTransformerPretrainedModel", "xglm": "XGLMForCausalLM",
}  # fmt: skip
SANDWICHED = {
    "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM", "glm4": "Glm4ForCausalLM",
    "olmo2": "Olmo2ForCausalLM", "exaone4": "Exaone4ForCausalLM", "afmoe": "AfmoeForCausalLM",
}  # fmt: skip
POST_NORM = {
    "bart": "BartForConditionalGeneration", "fsmt": "FSMTForConditionalGeneration", "wav2vec2": "Wav2Vec2Model",
    "bert": "BertModel", "roberta": "RobertaModel", "electra": "ElectraModel", "distilbert": "DistilBertModel",
    "mpnet": "MPNetModel", "deberta-v2": "DebertaV2Model",
    "nomic_bert": "NomicBertModel", "xlm-roberta": "XLMRobertaModel",
    "rf_detr": "RfDetrModel",
}  # fmt: skip
PARALLEL = {"gpt_neox": "GPTNeoXForCausalLM", "gptj": "GPTJForCausalLM", "phi": "PhiForCausalLM",
            "falcon": "FalconForCausalLM", "cohere": "CohereForCausalLM"}  # fmt: skip
ALL = {**SEQUENTIAL, **SANDWICHED, **POST_NORM, **PARALLEL}


class Watched:
    """A model of one family, and what passed by in one forward, taken by hooks that know nothing of actframe."""

    def __init__(self, kind):
        self.kind = kind
        self.model = build(kind, ALL[kind])
        if hasattr(self.model, "set_attn_implementation"):
            self.model.set_attn_implementation("eager")
        self.inputs = accepted_inputs(kind, self.model)
        self.layout = find_layout(self.model)
        self.given, self.made = {}, {}
        handles = [
            module.register_forward_hook(self._hook(path), with_kwargs=True)
            for path, module in self.model.named_modules()
        ]
        run(self.model, self.inputs)
        for handle in handles:
            handle.remove()

    def _hook(self, path):
        def hook(module, args, kwargs, output):
            given = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
            self.given.setdefault(path, given.detach().clone() if isinstance(given, torch.Tensor) else None)
            items = output if isinstance(output, tuple | list) else [output]
            kept = [item.detach().clone() if isinstance(item, torch.Tensor) else None for item in items]
            self.made.setdefault(path, kept)

        return hook

    def blocks(self):
        """Each block that has a site of its own: its path, its number with the tower before it."""
        for tower in self.layout.towers:
            for number, path in enumerate(tower.blocks):
                yield path, f"{tower.prefix}layer_{number}"

    def at(self, site):
        """What passed at a site, or None where the block does not have it."""
        place = self.layout.places.get(site)
        if place is None:
            return None
        return self.given[place.module] if place.side == "input" else self.made[place.module][place.item]

    def written(self, layer, part):
        """What a part adds to the residual stream."""
        raw, write = self.at(f"{layer}.{part}_out"), self.at(f"{layer}.{part}_write")
        return raw if write is None else write

    def passing(self, block):
        """Every tensor that enters a part of a block, or leaves the block."""
        return [v for p, v in self.given.items() if v is not None and f"{p}.".startswith(f"{block}.")] + self.made[
            block
        ][:1]


def close(one, other):
    size = max(1.0, float(other.abs().max()))
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5 * size)


def is_added(value, states):
    """Whether a value is what one of these states has more than another."""
    flat = [state.reshape(value.shape) for state in states if state.numel() == value.numel()]
    return any(close(one + value, other) and not close(one, other) for one in flat for other in flat)


@pytest.fixture(scope="module")
def seen(request):
    return Watched(request.param)


FAST = ("llama", "gpt2", "bloom", "jamba", "mt5", "bart", "bert", "gemma2", "olmo2", "gpt_neox", "mixtral", "vit")


def families(*kinds):
    marked = [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]
    return pytest.mark.parametrize("seen", marked, indirect=True)


@families(*ALL)
def test_what_attention_and_mlp_write_is_what_is_added_to_the_stream(seen):
    found = 0
    for block, layer in seen.blocks():
        attention, mlp = seen.written(layer, "attn"), seen.written(layer, "mlp")
        before, after = seen.given[block], seen.made[block][0]
        if seen.kind in PARALLEL:
            assert close(before + attention + mlp, after), layer
            found += 2
            continue
        made = [value for path, items in seen.made.items() if path.startswith(f"{block}.") for value in items[:1]]
        states = [*seen.passing(block), *(value for value in made if value is not None)]
        for name, value in (("attn", attention), ("mlp", mlp)):
            if value is not None:
                assert is_added(value, states), f"{layer}.{name} of {seen.kind}"
                found += 1
        if seen.kind in SANDWICHED or (
            seen.kind in SEQUENTIAL and None not in (attention, mlp) and "decoder" not in layer
        ):
            assert close((before + attention.reshape(before.shape)) + mlp.reshape(before.shape), after), layer
    assert found, f"{seen.kind} has neither"


@families(*ALL)
def test_the_neurons_times_the_down_projection_are_what_the_mlp_gives(seen):
    for _, layer in seen.blocks():
        neurons, out = seen.at(f"{layer}.mlp_act"), seen.at(f"{layer}.mlp_out")
        if neurons is None:
            assert (
                seen.at(f"{layer}.mlp_out") is None
                or f"{layer}.mlp_act" in seen.layout.refused
                or seen.kind == "cpmant"
            )
            continue
        down = seen.model.get_submodule(seen.layout.places[f"{layer}.mlp_act"].module)
        weight = down.weight.T if isinstance(down, torch.nn.Linear) else down.weight
        expected = (neurons @ weight + (0 if getattr(down, "bias", None) is None else down.bias)).detach()
        assert close(expected.reshape(out.shape), out), layer


@families(*ALL)
def test_attention_patterns_are_patterns(seen):
    for block, layer in seen.blocks():
        pattern = seen.at(f"{layer}.attn_probs")
        if pattern is not None:
            batch, width = seen.given[block].shape[:2]
            if seen.kind == "fsmt":
                batch, width = width, batch
            assert pattern.ndim == 4
            assert (pattern.shape[0], pattern.shape[2]) == (batch, width)
            assert (pattern >= 0).all()
            if seen.kind != "gpt_oss":  # whose sinks take a share that no key has
                torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]), rtol=1e-4, atol=1e-4)


@families("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "jamba", "qwen3_next")
def test_router_logits_are_one_row_for_each_position_with_one_number_for_each_expert(seen):
    sites = [site for site in seen.layout.places if site.endswith("router_logits")]
    assert sites
    with ActivationRecorder(seen.model, sites) as recorder:
        run(seen.model, seen.inputs)
    for site in sites:
        router = seen.model.get_submodule(seen.layout.places[site].module)
        bias = getattr(router, "bias", None)
        given = seen.given[seen.layout.places[site].module]
        expected = (given.flatten(0, -2) @ router.weight.T + (0 if bias is None else bias)).detach()
        ours = torch.cat([record.activations[site] for record in recorder.records])
        assert ours.shape[1] == 6
        assert close(ours, expected), site


@families(*SANDWICHED)
def test_a_norm_after_a_module_makes_what_is_written_a_site_of_its_own(seen):
    for _, layer in seen.blocks():
        for part in ("attn", "mlp"):
            norm = seen.layout.places[f"{layer}.{part}_write"].module
            assert torch.equal(seen.given[norm], seen.at(f"{layer}.{part}_out"))
            assert torch.equal(seen.model.get_submodule(norm)(seen.at(f"{layer}.{part}_out")), seen.made[norm][0])


@families(*sorted(set(ALL) - set(SANDWICHED)))
def test_elsewhere_no_norm_stands_between(seen):
    assert not [site for site in seen.layout.places if site.endswith("_write")]


@families("jamba", "qwen3_next", "lfm2_moe", "recurrent_gemma")
def test_blocks_that_differ_have_the_sites_that_each_of_them_has(seen):
    layout = seen.layout
    layers = [site for site in layout.places if site.endswith("attn_out")]
    patterns = [site for site in layout.places if site.endswith("attn_probs")]
    assert len(layers) == 4
    assert 0 < len(patterns) < 4


@pytest.mark.parametrize(
    ("kind", "name", "site", "why"),
    [
        ("falcon_h1", "FalconH1ForCausalLM", "attn_out", "2 children could be attention: mamba, self_attn"),
        ("granitemoehybrid", "GraniteMoeHybridForCausalLM", "mlp_out", "the MLP: block_sparse_moe, shared_mlp"),
        ("longcat_flash", "LongcatFlashForCausalLM", "attn_out", "self_attn.0, self_attn.1"),
        ("xlnet", "XLNetModel", "attn_out", "rel_attn adds the residual stream by itself"),
        ("minimax", "MiniMaxForCausalLM", "attn_probs", "its recurrent state"),
        ("canine", "CanineModel", "attn_probs", "only to a caller who asks for output_attentions"),
        ("mixtral", "MixtralForCausalLM", "mlp_act", "a mixture of experts: each token goes to experts of its own"),
    ],
)
def test_what_can_be_read_in_several_ways_is_refused_by_name_with_the_reason(kind, name, site, why):
    model = build(kind, name)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    refused = next(each for each in find_layout(model).refused if each.endswith(site))
    with pytest.raises(SiteError, match=f"{refused} cannot be told in this model: .*{why}.*record module:"):
        ActivationRecorder(model, refused)
    others = ActivationRecorder(model, ["layer_*", "layer_*.*"]).sites
    assert refused not in others
    assert "layer_0" in others
