"""torch.compile: exact where hooks stand outside the compiled code, refused before the run where they do not."""

import pytest
import torch
from plain import assert_plain, plain_hooks

from actframe import ActivationRecorder, CaptureError
from actframe.testing import tiny_model

IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
# What dynamo does with hooks does not depend on what makes code of its graphs; inductor takes minutes.
BACKEND = "eager"
GREEDY = {"do_sample": False, "eos_token_id": None}


@pytest.fixture(autouse=True)
def from_the_start():
    torch.compiler.reset()
    with torch.no_grad():
        yield
    torch.compiler.reset()


@pytest.fixture
def model():
    return tiny_model("llama", num_hidden_layers=2)


def wrapper(model):
    return torch.compile(model, backend=BACKEND)


def in_place(model):
    model.compile(backend=BACKEND)
    return model


def its_forward(model):
    model.forward = torch.compile(model.forward, backend=BACKEND)
    return model


def its_inner_model(model):
    model.model = torch.compile(model.model, backend=BACKEND)
    return model


def a_function(model):
    def step(ids):
        return model(ids)

    return torch.compile(step, backend=BACKEND)


WHOLE = [wrapper, in_place, its_forward, its_inner_model]


REFUSED = [
    *[(compile_it, False) for compile_it in WHOLE],
    (a_function, False),
    (a_function, True),
    (wrapper, True),
    *[pytest.param(compile_it, True, marks=pytest.mark.slow) for compile_it in WHOLE[1:]],
]


@pytest.mark.parametrize(("compile_it", "ran"), REFUSED)
def test_a_compiled_model_is_refused_before_it_runs_and_left_as_it_was(model, compile_it, ran):
    expected = model(IDS).logits
    compiled = compile_it(model)
    if ran:
        compiled(IDS)
    with pytest.raises(CaptureError, match="runs compiled|a compiled|not compiled before") as raised:
        with ActivationRecorder(model) as recorder:
            compiled(IDS)
            assert compile_it is a_function
    if not (compile_it is a_function and ran):
        assert "torch.compiler.set_stance('force_eager')" in str(raised.value)
        assert "disable_compile=True" in str(raised.value)
    assert compile_it in (in_place, its_forward, its_inner_model) or recorder.records == []
    assert torch.allclose(compiled(IDS).logits, expected, atol=1e-5)


def test_a_wrapper_itself_is_refused_too(model):
    compiled = wrapper(model)
    with pytest.raises(CaptureError, match="runs compiled"), ActivationRecorder(compiled):
        compiled(IDS)


@pytest.mark.parametrize(
    "compile_it", [wrapper, in_place, *(pytest.param(each, marks=pytest.mark.slow) for each in WHOLE[2:])]
)
def test_a_compiled_model_that_is_told_to_run_as_written_is_recorded(model, compile_it):
    with plain_hooks(model.model.layers) as seen:
        expected = model(IDS).logits
    compiled = compile_it(model)
    compiled(IDS)
    with torch.compiler.set_stance("force_eager"), ActivationRecorder(compiled) as recorder:
        assert torch.equal(compiled(IDS).logits, expected)
    assert_plain(recorder.records, seen)


def test_generate_of_a_compiled_wrapper_runs_the_model_as_written_and_is_recorded(model):
    compiled = wrapper(model)
    compiled(IDS)
    with plain_hooks(model.model.layers) as seen, ActivationRecorder(compiled) as recorder:
        compiled.generate(IDS, max_new_tokens=3, **GREEDY)
    assert_plain(recorder.records, seen)


def compiled_blocks(model, form):
    layers = model.model.layers
    for layer in range(len(layers)):
        if form == "in place":
            layers[layer].compile(backend=BACKEND)
        else:
            layers[layer] = torch.compile(layers[layer], backend=BACKEND)


@pytest.mark.parametrize("ran", [True, False], ids=["ran before", "not run yet"])
@pytest.mark.parametrize("form", ["in place", "wrapped"])
def test_blocks_compiled_one_by_one_are_recorded_as_they_run_compiled(model, form, ran):
    compiled_blocks(model, form)
    if ran:
        model(IDS)
    graphs = count_graphs()
    with ActivationRecorder(model) as recorder:
        recorded = model(IDS).logits
    assert count_graphs() == graphs + (0 if ran else 2)
    with plain_hooks(model.model.layers) as seen:
        assert torch.equal(model(IDS).logits, recorded)
    assert_plain(recorder.records, seen)


@pytest.mark.parametrize("form", ["in place", pytest.param("wrapped", marks=pytest.mark.slow)])
def test_generating_with_compiled_blocks_is_recorded(model, form):
    compiled_blocks(model, form)
    expected = model.generate(IDS, max_new_tokens=3, **GREEDY)
    with plain_hooks(model.model.layers) as seen, ActivationRecorder(model) as recorder:
        assert torch.equal(model.generate(IDS, max_new_tokens=3, **GREEDY), expected)
    assert_plain(recorder.records, seen)


def test_a_site_inside_a_compiled_block_is_refused_before_anything_runs(model):
    compiled_blocks(model, "in place")
    with pytest.raises(CaptureError, match="layer_1.mlp_out lies in model.layers.1, a compiled LlamaDecoderLayer"):
        with ActivationRecorder(model, ["layer_0", "layer_1.mlp_out"]):
            raise AssertionError("the block began")


def test_code_compiled_around_a_recorder_calls_none_of_its_hooks_later(model):
    step = a_function(model)
    with pytest.raises(CaptureError, match="runs compiled"), ActivationRecorder(model):
        step(IDS)
    expected = step(IDS).logits
    with ActivationRecorder(model) as recorder:
        model(IDS)
    assert torch.equal(step(IDS).logits, expected)
    assert len(recorder.records) == 2


def test_a_static_cache_for_which_generate_compiles_by_itself_is_refused_or_runs_as_written(model):
    # Generate does so on CUDA alone unless it is told to.
    from transformers import CompileConfig

    config = CompileConfig(backend=BACKEND, fullgraph=False)
    config._compile_all_devices = True
    settings = {"cache_implementation": "static", "compile_config": config, "max_new_tokens": 3, **GREEDY}
    with pytest.raises(CaptureError, match="disable_compile=True"), ActivationRecorder(model):
        model.generate(IDS, **settings)
    expected = model.generate(IDS, disable_compile=True, **settings)
    with plain_hooks(model.model.layers) as seen, ActivationRecorder(model) as recorder:
        assert torch.equal(model.generate(IDS, disable_compile=True, **settings), expected)
    assert_plain(recorder.records, seen)


def count_graphs():
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_blocks_compiled_by_inductor_give_what_they_give_without_a_recorder(model):
    for block in model.model.layers:
        block.compile()
    expected = model(IDS).logits
    with ActivationRecorder(model) as recorder:
        assert torch.equal(model(IDS).logits, expected)
    with plain_hooks(model.model.layers) as seen:
        model(IDS)
    assert_plain(recorder.records, seen)
