"""Models with something around them: the same sites, the same records, the same output."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from plain import assert_plain, plain_hooks

from actframe import ActivationRecorder, CaptureError
from actframe.capture.available import available_sites
from actframe.testing import tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    # PEFT asks transformers by a name that transformers has deprecated.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
GREEDY = {"do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def inputs():
    return dict(
        tiny_tokenizer()(["hello", "to be or not"], return_tensors="pt", padding=True, return_token_type_ids=False)
    )


def with_lora(model, **settings):
    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(target_modules=targets, init_lora_weights=False, **settings)).eval()


GIVEN = {
    "the PEFT model": lambda peft: peft,
    "the tuner in it": lambda peft: peft.base_model,
    "the base model": lambda peft: peft.get_base_model(),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
def test_a_peft_model_is_recorded_as_its_base_is_with_the_adapter(model, inputs, given, task):
    peft = with_lora(model, task_type=task)
    with plain_hooks(model.model.layers) as seen:
        expected = peft(**inputs).logits
    with ActivationRecorder(GIVEN[given](peft)) as recorder:
        assert torch.equal(peft(**inputs).logits, expected)
    assert recorder.sites == ["embeddings", *(f"layer_{layer}" for layer in range(4))]
    assert_plain(recorder.records, seen)
    with peft.disable_adapter(), ActivationRecorder(GIVEN[given](peft)) as without:
        peft(**inputs)
    assert not torch.equal(without.activations["layer_0"], recorder.activations["layer_0"])


@pytest.mark.parametrize("given", GIVEN)
def test_a_peft_model_generates_as_its_base_does(model, inputs, given):
    peft = with_lora(model, task_type="CAUSAL_LM")
    expected = peft.generate(**inputs, max_new_tokens=4, **GREEDY)
    with plain_hooks(model.model.layers) as seen, ActivationRecorder(GIVEN[given](peft)) as recorder:
        returned = peft.generate(**inputs, max_new_tokens=4, **GREEDY)
    assert torch.equal(returned, expected)
    assert [record.output_ids for record in recorder.records] == expected[:, -4:].tolist()
    assert [record.prompt_length for record in recorder.records] == [5, 12]
    assert_plain(recorder.records, seen)


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_a_merged_adapter_is_recorded(model, inputs, merge):
    peft = with_lora(model, task_type="CAUSAL_LM")
    unmerged = peft(**inputs).logits
    merged = getattr(peft, merge)() or peft
    with plain_hooks(model.model.layers) as seen:
        expected = merged(**inputs).logits
    with ActivationRecorder(merged) as recorder:
        assert torch.equal(merged(**inputs).logits, expected)
    assert_plain(recorder.records, seen)
    assert torch.allclose(expected, unmerged, atol=1e-5)


def test_parts_of_blocks_with_adapters_have_the_sites_they_have_without(model):
    before = available_sites(model)
    peft = with_lora(model, task_type="CAUSAL_LM")
    assert available_sites(peft) == available_sites(model) == before
    assert "layer_0.mlp_act" in before


def test_modules_within_a_wrapper_are_named_as_the_wrapper_names_them(model, inputs):
    peft = with_lora(model, task_type="CAUSAL_LM")
    path = "module:base_model.model.model.layers.1"
    with ActivationRecorder(peft, [path, "layer_1"]) as recorder:
        peft(**inputs)
    assert torch.equal(recorder.activations[path], recorder.activations["layer_1"])
    assert recorder.records[0].place_of("layer_1") == "base_model.model.model.layers.1"


def test_an_encoder_decoder_model_with_an_adapter(inputs):
    t5 = tiny_model("t5")
    peft = get_peft_model(t5, LoraConfig(target_modules=["q", "v"], init_lora_weights=False, task_type="SEQ_2_SEQ_LM"))
    peft.eval()
    with plain_hooks(t5.encoder.block) as encoder, plain_hooks(t5.decoder.block) as decoder:
        expected = peft.generate(**inputs, max_new_tokens=4, **GREEDY)
    with ActivationRecorder(peft, "**layer_*") as recorder:
        assert torch.equal(peft.generate(**inputs, max_new_tokens=4, **GREEDY), expected)
    for row, record in enumerate(recorder.records):
        assert torch.equal(record.activations["decoder.layer_3"], torch.cat(decoder[3], dim=1)[row])
        assert torch.equal(record.activations["encoder.layer_3"], encoder[3][0][row, -len(record.input_ids) :])


def test_virtual_tokens_of_a_tuned_prompt_are_positions_of_the_sequence(model):
    peft = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    with plain_hooks(model.model.layers) as seen, ActivationRecorder(peft) as recorder:
        peft(input_ids=ids)
    (record,) = recorder.records
    assert record.positions == list(range(7))
    assert_plain([record], seen)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("base", [False, True])
def test_generating_with_virtual_tokens_is_refused(model, base):
    ids = torch.tensor([[1, 2, 3, 4]])
    peft = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    given = model if base else peft
    with pytest.raises(CaptureError, match="virtual tokens of a tuned prompt"), ActivationRecorder(given):
        peft.generate(input_ids=ids, max_new_tokens=3, **GREEDY)


def test_positions_after_a_tuned_prefix_are_those_that_they_have_in_the_cache(model):
    peft = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with plain_hooks(model.model.layers) as seen, ActivationRecorder(peft) as recorder:
        peft(input_ids=torch.tensor([[1, 2, 3, 4]]))
    (record,) = recorder.records
    assert record.positions == [3, 4, 5, 6]
    assert_plain([record], seen)


@pytest.mark.parametrize("inner", [False, True])
def test_data_parallel_without_devices_calls_the_model_itself(model, inputs, inner):
    parallel = torch.nn.DataParallel(model)
    with plain_hooks(model.model.layers) as seen:
        expected = parallel(**inputs).logits
    with ActivationRecorder(model if inner else parallel) as recorder:
        assert torch.equal(parallel(**inputs).logits, expected)
    assert recorder.sites[0] == "embeddings"
    assert_plain(recorder.records, seen)


def test_what_data_parallel_copies_to_several_devices_is_refused_before_it_runs(model, inputs):
    with pytest.raises(CaptureError, match="copies of this LlamaForCausalLM on several devices"):
        with ActivationRecorder(model):
            # What DataParallel calls for each device.
            model._replicate_for_data_parallel()(**inputs)


def test_attention_patterns_are_offered_through_a_wrapper(inputs):
    eager = tiny_model("llama", attn_implementation="eager")
    parallel = torch.nn.DataParallel(eager)
    with ActivationRecorder(parallel, "layer_0.attn_probs") as recorder:
        parallel(**inputs)
    assert recorder.records[0].activations["layer_0.attn_probs"].shape == (4, 5, 5)
    assert recorder.records[0].attn_implementation == "eager"
