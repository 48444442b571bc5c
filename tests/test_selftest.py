"""The self-test passes on models that are recorded right, and finds every fault that is planted."""

import contextlib
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from actframe import CaptureError, LayoutError, ModelError, UnknownNameError
from actframe.capture import available
from actframe.capture.forward_hooks import ForwardHooks
from actframe.cli.main import app
from actframe.runs import models
from actframe.runs.models import LoadedModel
from actframe.testing import FAMILIES, SelfTestReport, selftest, tiny_model, tiny_tokenizer
from actframe.testing.proofs.agreement import apart, tolerance

QUICK = ["llama", "gpt2", "bert", "t5", "mixtral"]
EXACT = {
    "greedy",
    "static cache",
    "no cache (use_cache=False)",
    "prompt in chunks",
    "a conversation that keeps its cache",
}


@pytest.fixture
def llama():
    return tiny_model("llama")


def failed(report):
    return [each.name for each in (*report.checks, *report.ways) if each.status == "failed"]


# Models that are recorded right


@pytest.mark.parametrize(
    "family", [*QUICK, *[pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f not in QUICK]]
)
def test_a_model_passes_without_a_tokenizer(family):
    report = selftest(tiny_model(family))
    assert report.ok, report
    assert {check.status for check in report.checks} == {"ok"}, report
    assert {way.status for way in report.ways} <= {"exact", "refused"}, report
    if family == "llama":
        assert {way.name for way in report.ways if way.status == "exact"} >= EXACT


def test_it_says_what_the_model_supports():
    report = selftest(tiny_model("llama").to(torch.bfloat16), tiny_tokenizer())
    assert (report.model_class, report.dtype, report.device) == ("LlamaForCausalLM", "bfloat16", "cpu")
    assert (report.strategy, report.attn_implementation) == ("hooks", "sdpa")
    assert report.places["layer_{i}"] == "model.layers.{i}"
    assert {"embeddings", "layer_3.mlp_act", "logits"} <= set(report.sites)
    assert "attn_implementation='eager'" in report.refused["layer_0.attn_probs"]
    assert "prompts of" in report.inputs
    assert json.loads(json.dumps(report.as_json()))["ok"] is True
    assert str(report).count("\n") == len(report.checks) + len(report.ways)


def test_attention_patterns_are_held_against_what_the_module_gives():
    report = selftest(tiny_model("llama", attn_implementation="eager"))
    assert report.ok, report
    assert "layer_3.attn_probs" in report.sites
    assert "Not compared" not in report.checks[0].said


def test_the_other_strategy_passes_on_what_it_has():
    report = selftest(tiny_model("llama"), strategy="output_hidden_states")
    assert report.ok, report
    assert list(report.sites) == ["embeddings", "layer_0", "layer_1", "layer_2", "final_norm"]


def test_a_model_of_pictures_is_run_on_noise():
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    vit = AutoModel.from_config(AutoConfig.for_model("vit", image_size=32, patch_size=8, **sizes)).eval()
    report = selftest(vit)
    assert [check.status for check in report.checks if "strategies" not in check.name] == ["ok"] * 3, report
    assert report.ways == ()
    given = selftest(vit, inputs={"pixel_values": torch.zeros(2, 3, 32, 32)})
    assert given.inputs == "the inputs that were given"


def test_the_model_is_left_as_it_was(llama):
    llama.train()
    llama.model.layers[2].eval()
    state = torch.random.get_rng_state()
    report = selftest(llama, ways=False)
    assert report.ok, report
    assert llama.training
    assert not llama.model.layers[2].training
    assert llama.model.layers[1].training
    assert torch.equal(state, torch.random.get_rng_state())


def test_blocks_that_run_for_several_layers_are_held_against_their_own_rounds():
    sizes = {"vocab_size": 260, "embedding_size": 16, "hidden_size": 32, "intermediate_size": 48}
    config = AutoConfig.for_model("albert", num_hidden_layers=4, num_attention_heads=4, **sizes)
    report = selftest(AutoModel.from_config(config).eval())
    assert report.ok, report
    assert {"layer_3.resid_pre", "layer_3.attn_out"} <= set(report.sites)
    assert "Not compared" not in report.checks[0].said


def test_a_model_that_returns_more_than_sequences_passes_too(llama):
    llama.generation_config.return_dict_in_generate = True
    report = selftest(llama, ways=False)
    assert report.ok, report


def test_numbers_that_are_none_are_not_called_close(llama):
    def spoil(module, args, output):
        return output.index_fill(-1, torch.tensor([0]), float("nan"))

    llama.model.layers[1].register_forward_hook(spoil)
    llama.model.layers[2].register_forward_pre_hook(lambda module, args: (args[0].nan_to_num(), *args[1:]))
    report = selftest(llama, ways=False)
    (padding,) = [check for check in report.checks if check.name == "padding does not matter"]
    assert padding.status == "note"
    assert "nan of a vector's length (layer_1" in padding.said


def test_what_cannot_be_tested_is_said(llama):
    with pytest.raises(UnknownNameError, match="no capture strategy named 'hoks'"):
        selftest(llama, strategy="hoks")
    with pytest.raises(ModelError, match="without any recorder: RuntimeError"):
        selftest(llama, inputs={"inputs_embeds": torch.zeros(3, 4, 5)})
    flat = AutoModel.from_config(AutoConfig.for_model("llama", hidden_size=32, num_hidden_layers=0, vocab_size=50))
    with pytest.raises(LayoutError, match="no residual stream was found"):
        selftest(flat)


# Faults


class Faulty(ForwardHooks):
    """Emits what the hooks see, and now and then something else."""

    name = "faulty"

    def spoil(self, site, tensor):
        return tensor

    @contextlib.contextmanager
    def attach(self, model, layout, sites, emit):
        with super().attach(model, layout, sites, lambda site, tensor: emit(site, self.spoil(site, tensor))):
            yield


@pytest.fixture
def plant(monkeypatch):
    """Have a strategy by the name of `faulty`."""
    find = available.find_strategy

    def plant(kind):
        for module in ("available", "recorder"):
            target = f"actframe.capture.{module}.find_strategy"
            monkeypatch.setattr(target, lambda name: kind() if name == "faulty" else find(name))

    return plant


def test_a_wrong_number_is_found_with_its_site_and_position(llama, plant):
    class Wrong(Faulty):
        def spoil(self, site, tensor):
            if site == "layer_2":
                tensor = tensor.clone()
                tensor[-1, 3] += 0.25
            return tensor

    plant(Wrong)
    report = selftest(llama, strategy="faulty", ways=False)
    assert not report.ok
    found = report.first_failure
    assert found.name == "recorded is what the modules give"
    assert (found.difference.site, found.difference.position, found.difference.row) == ("layer_2", 3, 0)
    assert found.difference.size == pytest.approx(0.25, abs=1e-6)
    assert "layer_2, position 3, row 0: recorded is not what the module gives, by up to 0.25" in str(report)


def test_positions_that_are_off_by_one_are_called_that(llama, plant):
    class Shifted(Faulty):
        def spoil(self, site, tensor):
            return tensor.roll(1, dims=1) if site == "layer_1" else tensor

    plant(Shifted)
    difference = selftest(llama, strategy="faulty", ways=False).first_failure.difference
    assert (difference.site, difference.position) == ("layer_1", 0)
    assert "but what it gives at position 8" in str(difference)


def test_rows_that_are_swapped_are_found(llama, plant):
    class Swapped(Faulty):
        def spoil(self, site, tensor):
            return tensor.flip(0)

    plant(Swapped)
    found = selftest(llama, strategy="faulty", ways=False).first_failure
    assert found.said.startswith("3 rows")
    assert found.difference.row == 0


def test_a_step_that_is_late_by_one_is_found(llama, plant):
    class Late(Faulty):
        def __init__(self):
            self.last = {}

        def spoil(self, site, tensor):
            before = self.last.get(site, tensor)
            self.last[site] = tensor.clone()
            return before if tensor.shape == before.shape and tensor.shape[1] == 1 and "layer" in site else tensor

    plant(Late)
    found = selftest(llama, strategy="faulty", ways=False).first_failure
    assert found.name == "whole sequences are as hooks saw them"
    assert (found.difference.site, found.difference.position) == ("layer_0", 6)
    assert "but what it gives at position 5" in str(found.difference)


def test_rows_that_are_swapped_in_one_way_alone_are_found_there(llama, plant):
    class Swapped(Faulty):
        def spoil(self, site, tensor):
            # Whole columns of the right tokens: only what came before them tells.
            return tensor[[1, 0, 2, 3, 4, 5]] if len(tensor) == 6 and site != "embeddings" else tensor

    plant(Swapped)
    report = selftest(llama, strategy="faulty")
    assert failed(report) == ["several answers to each prompt"]
    assert "embeddings" not in str(report.first_failure.difference)


def test_a_hook_between_ours_and_the_next_module_is_found(llama):
    handles = []

    def add_one(module, args):
        handles.append(llama.model.layers[1].register_forward_hook(lambda *call: call[-1] + 1.0))

    llama.register_forward_pre_hook(add_one)
    difference = selftest(llama, ways=False).first_failure.difference
    assert (difference.site, difference.position) == ("layer_1", 0)
    assert difference.size == pytest.approx(1.0, abs=1e-5)


def test_a_model_that_notices_that_it_is_hooked_is_found(llama):
    norm = llama.model.norm.forward
    llama.model.norm.forward = lambda states: norm(states) + bool(llama.model.layers[0]._forward_hooks)
    found = selftest(llama, ways=False).first_failure
    assert found.name == "outputs are unchanged"
    assert str(found.difference) == "logits of a forward pass is another one while it is recorded"


def test_a_model_that_is_never_the_same_is_called_that(llama):
    norm, calls = llama.model.norm.forward, []
    llama.model.norm.forward = lambda states: norm(states) + (calls.append(1) or len(calls))
    found = selftest(llama, ways=False).first_failure
    assert str(found.difference) == "logits is another one each time, without any recorder"


def test_a_hook_that_stays_is_found(llama, plant):
    class Staying(Faulty):
        @contextlib.contextmanager
        def attach(self, model, layout, sites, emit):
            with super().attach(model, layout, sites, emit):
                model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
                yield

    plant(Staying)
    report = selftest(llama, strategy="faulty", ways=False)
    assert failed(report) == ["no trace is left on the model"]
    assert str(report.first_failure.difference) == "model.layers.1.mlp has other hooks than before"


def test_a_strategy_that_differs_from_the_hooks_on_other_sites_is_found(llama, plant):
    class Wrong(Faulty):
        def spoil(self, site, tensor):
            return tensor * 2 if site == "final_norm" else tensor

    plant(Wrong)
    assert failed(selftest(llama, strategy="faulty", ways=False)) == [
        "recorded is what the modules give",
        "strategies agree",
    ]


def test_a_recorder_that_breaks_is_a_failure_and_not_a_refusal(llama, plant):
    class Broken(Faulty):
        def spoil(self, site, tensor):
            if len(tensor) == 6:
                raise RuntimeError("no such thing")
            return tensor

    plant(Broken)
    report = selftest(llama, strategy="faulty")
    assert failed(report) == ["several answers to each prompt"]
    assert "while it is recorded it raises RuntimeError: no such thing" in str(report)


@pytest.mark.parametrize("ways", [False, True])
def test_a_recorder_that_breaks_in_the_plainest_generation_is_a_failure(llama, plant, ways):
    class Broken(Faulty):
        def spoil(self, site, tensor):
            if tensor.shape[1] == 1:
                raise RuntimeError("no such thing")
            return tensor

    plant(Broken)
    report = selftest(llama, strategy="faulty", ways=ways)
    assert {"outputs are unchanged", "whole sequences are as hooks saw them"} <= set(failed(report))
    assert ("greedy" in failed(report)) == ways
    assert "RuntimeError: no such thing" in str(report)


def test_sites_that_are_refused_when_they_run_are_named_and_the_rest_is_tested(llama, plant):
    class Picky(Faulty):
        def spoil(self, site, tensor):
            if site.endswith("mlp_act"):
                raise CaptureError(f"{site} is not like that")
            return tensor

    plant(Picky)
    report = selftest(llama, strategy="faulty", ways=False)
    assert report.ok, report
    assert report.refused["layer_3.mlp_act"] == "layer_0.mlp_act is not like that"
    assert not any("mlp_act" in site for site in report.sites)


def test_a_strategy_that_is_refused_beside_another_is_noted(plant):
    report = selftest(tiny_model("mamba", num_hidden_layers=2, state_size=4), ways=False)
    assert report.ok, report
    (note,) = [check for check in report.checks if check.status == "note"]
    assert note.said.startswith("'output_hidden_states' is refused: hidden state 0")


def test_what_rounding_may_do_is_far_below_what_another_token_does(llama):
    states = llama(torch.arange(10)[None], output_hidden_states=True).hidden_states[2][0].detach()
    assert float(apart(states, states).max()) == 0
    assert float(apart(states[1:], states[:-1]).min()) > 0.1
    assert tolerance("float32", 30, 576) < 1e-4
    assert tolerance("bfloat16", 30, 576) < 0.15


# The command


def command(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["selftest", *arguments])


@pytest.fixture
def named(llama, monkeypatch):
    """The tiny model by a name."""
    loaded = LoadedModel("tiny", llama)
    monkeypatch.setattr(models, "_load_named", lambda name, device, dtype: loaded)
    return llama


def test_the_command_prints_checks_and_ways(named):
    result = command("tiny")
    assert result.exit_code == 0, result.output
    for said in ("tiny: LlamaForCausalLM, float32 on cpu", "Checks", "Ways of running it", "recorded right; "):
        assert said in result.stdout


@pytest.mark.slow
def test_the_command_fails_with_the_first_difference(named, plant):
    class Shifted(Faulty):
        def spoil(self, site, tensor):
            return tensor.roll(1, dims=1) if site == "layer_1" else tensor

    plant(Shifted)
    result = command("tiny", "--strategy", "faulty")
    assert result.exit_code == 1
    assert "wrong: recorded is what the modules give: layer_1, position 0, row 0: recorded is not" in result.stdout
    told = json.loads(command("tiny", "--strategy", "faulty", "--json").stdout)
    assert told["ok"] is False
    assert told["checks"][0]["difference"]["site"] == "layer_1"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_real_model_passes(dtype):
    report = selftest(models.load_model("smollm2", device="cpu", dtype=dtype))
    assert isinstance(report, SelfTestReport)
    assert report.ok, report
    assert {check.status for check in report.checks} == {"ok"}, report
