"""Ways of running one model: dtypes, offloading, quantised weights, training. The same records, the same output."""

import pytest
import torch
from plain import assert_plain, plain_hooks

from actframe import ActivationRecorder, Selection, generate_inference, generate_inference_with_activations
from actframe.runs.models import load_model
from actframe.testing import tiny_tokenizer

GREEDY = {"do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def inputs():
    prompts = ["hello", "to be or not"]
    return dict(tiny_tokenizer()(prompts, return_tensors="pt", padding=True, return_token_type_ids=False))


def assert_recorded(model, blocks, inputs, select=None):
    """A forward pass and a generation: what plain hooks see, and the output that there is without a recorder."""
    with torch.no_grad():
        with plain_hooks(blocks) as seen:
            expected = model(**inputs).logits
        with ActivationRecorder(model, select) as recorder:
            assert torch.equal(model(**inputs).logits, expected)
        assert_plain(recorder.records, seen)
        with plain_hooks(blocks) as seen:
            expected = model.generate(**inputs, max_new_tokens=3, **GREEDY)
        with ActivationRecorder(model, select) as recorder:
            assert torch.equal(model.generate(**inputs, max_new_tokens=3, **GREEDY), expected)
        assert_plain(recorder.records, seen)
    return recorder.records


# Dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_in_another_dtype_is_recorded_in_it(model, inputs, dtype):
    model.to(dtype)
    records = assert_recorded(model, model.model.layers, inputs, "**")
    assert records[0].dtype == str(dtype).removeprefix("torch.")
    assert {tensor.dtype for tensor in records[0].activations.values()} == {dtype}


def test_parts_in_a_dtype_of_their_own_are_recorded_in_theirs(model, inputs):
    model.to(torch.bfloat16)
    model.model.layers[2].mlp.float()
    model.model.layers[2].mlp.register_forward_pre_hook(lambda _, args: (args[0].float(),))
    model.model.layers[2].mlp.register_forward_hook(lambda _, args, output: output.bfloat16())
    with torch.no_grad(), ActivationRecorder(model, ["layer_2", "layer_2.mlp_act"]) as recorder:
        model(**inputs)
    assert recorder.activations["layer_2"].dtype == torch.bfloat16
    assert recorder.activations["layer_2.mlp_act"].dtype == torch.float32


def test_under_autocast_each_site_has_the_dtype_that_it_was_computed_in(model, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        records = assert_recorded(model, model.model.layers, inputs, "**")
    dtypes = {site: tensor.dtype for site, tensor in records[0].activations.items()}
    assert dtypes["layer_1"] == torch.float32
    assert dtypes["layer_1.attn_out"] == dtypes["layer_1.mlp_act"] == dtypes["logits"] == torch.bfloat16


def test_autocast_that_begins_within_a_sequence_is_told(model):
    with torch.no_grad(), ActivationRecorder(model, "layer_0") as recorder:
        cache = model(torch.tensor([[1, 2, 3]])).past_key_values
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.tensor([[4]]), past_key_values=cache)
    assert recorder.activations["layer_0"].shape == (1, 4, 32)


# Where the graph of a computation is kept


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_records_can_be_trained_on_in_whatever_mode_they_were_taken(model, inputs, mode):
    with mode(), ActivationRecorder(model) as recorder:
        model(**inputs)
        early = recorder.records[0].activations["layer_1"]
    for tensor in (early, recorder.records[0].activations["layer_1"], recorder.activations["layer_1"]):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
        torch.nn.Linear(32, 1)(tensor).sum().backward()


def test_a_recording_outside_inference_mode_may_follow_one_inside(model, inputs):
    with torch.inference_mode(), ActivationRecorder(model) as inside:
        model(**inputs)
    with torch.no_grad(), ActivationRecorder(model) as outside:
        model(**inputs)
    assert torch.equal(inside.activations["layer_3"], outside.activations["layer_3"])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_records_each_position_once_and_leaves_gradients_as_they_are(model, inputs, reentrant):
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    # Reentrant checkpointing computes no gradients where no input needs one.
    model.enable_input_require_grads()
    labels = inputs["input_ids"]

    def gradients():
        model.zero_grad()
        loss = model(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        return loss, [parameter.grad.clone() for parameter in model.parameters()]

    with plain_hooks(model.model.layers) as seen:
        expected_loss, expected = gradients()
    with ActivationRecorder(model, "**") as recorder:
        loss, found = gradients()
    assert torch.equal(loss, expected_loss)
    assert all(map(torch.equal, found, expected))
    assert_plain(recorder.records, [calls[:1] for calls in seen])


# Offloading and quantised weights


@pytest.mark.parametrize("where", ["cpu", "disk", "device_map"])
def test_an_offloaded_model_is_recorded_as_it_is_in_memory(model, inputs, where, tmp_path):
    from accelerate import cpu_offload, disk_offload
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        whole = model(**inputs).logits
    if where == "device_map":
        model.save_pretrained(tmp_path / "model")
        places = {name: "disk" for name, _ in model.model.layers.named_children()}
        places = {f"model.layers.{name}": place for name, place in places.items()}
        places |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", device_map=places, offload_folder=tmp_path / "weights"
        )
        assert model.model.layers[0].mlp.up_proj.weight.is_meta
    elif where == "cpu":
        cpu_offload(model, execution_device="cpu")
    else:
        disk_offload(model, tmp_path, execution_device="cpu")
    records = assert_recorded(model, model.model.layers, inputs, "**")
    assert records[0].dtype == "float32"
    assert "layer_0.mlp_act" in records[0].activations
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, whole)


def test_the_simple_functions_take_an_offloaded_model(model):
    from accelerate import cpu_offload

    expected = generate_inference("hello", model, tokenizer=tiny_tokenizer(), max_new_tokens=3)
    cpu_offload(model, execution_device="cpu")
    assert model.device.type == "meta"
    loaded = load_model(model, tiny_tokenizer())
    assert loaded.device.type == "cpu"
    response, activations = generate_inference_with_activations("hello", loaded, max_new_tokens=3)
    assert response == expected
    assert activations["activations"]["layer_3"].shape[1] == 32


def test_a_model_quantised_by_quanto_is_recorded_as_it_computes(model, inputs):
    from optimum.quanto import freeze, qint8, quantize

    with torch.no_grad():
        whole = model(**inputs).logits
    quantize(model, weights=qint8)
    freeze(model)
    records = assert_recorded(model, model.model.layers, inputs, "**")
    assert "layer_0.mlp_act" in records[0].activations
    with torch.no_grad():
        assert not torch.equal(model(**inputs).logits, whole)


def test_a_model_that_transformers_loads_with_quanto_is_recorded(model, inputs, tmp_path):
    from transformers import AutoModelForCausalLM, QuantoConfig

    model.save_pretrained(tmp_path)
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=QuantoConfig(weights="int8"))
    assert type(quantised.model.layers[0].mlp.up_proj).__name__ == "QLinear"
    records = assert_recorded(quantised, quantised.model.layers, inputs, "**")
    assert "layer_0.mlp_act" in records[0].activations


def test_a_selection_is_cast_whatever_the_model_computes_in(model, inputs):
    model.to(torch.bfloat16)
    with torch.inference_mode(), ActivationRecorder(model, Selection("layer_1", dtype="float32")) as recorder:
        model(**inputs)
    assert recorder.activations["layer_1"].dtype == torch.float32
