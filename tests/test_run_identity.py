"""What defines a run: the same command gives the same, and whatever changes an answer is told apart."""

import copy
import json

import pytest
import torch

from actframe import Selection
from actframe.benchmarks.general import General
from actframe.benchmarks.prompting import Prompting
from actframe.runs.differences import compare_runs
from actframe.runs.generation import GenerationSettings
from actframe.runs.identity import describe_run, versions
from actframe.runs.models import LoadedModel
from actframe.runs.plan import RunPlan
from actframe.runs.recording import CaptureSettings
from actframe.runs.settings import RunSettings


class Shouting(General):
    def prompt(self, question):
        return super().prompt(question).upper()


@pytest.fixture
def tiny(tiny_llama):
    model, tokenizer = tiny_llama
    longer = copy.deepcopy(model)
    longer.config.max_position_embeddings = 2048
    return LoadedModel("tiny", longer, tokenizer)


def described(model, benchmark=None, **settings):
    benchmark, chosen = benchmark or General(), RunSettings(**{"limit": 4, **settings})
    return describe_run(model, benchmark, RunPlan(model, benchmark, chosen), chosen)


def keys(stored, asked):
    return [each.key for each in compare_runs(stored, asked)]


def test_the_same_command_describes_the_same_run_in_plain_json(tiny):
    capture = CaptureSettings(Selection([0, -1], positions=slice(1, 5), dtype="float16"))
    first = described(tiny, capture=capture)
    assert json.loads(json.dumps(first)) == first
    assert described(tiny, capture=capture) == first
    assert first["versions"] == versions()
    assert (first["model"]["name"], first["model"]["dtype"], first["device"]) == ("tiny", "float32", "cpu")


def test_two_ways_to_say_the_same_selection_are_the_same(tiny):
    first = described(tiny, capture=CaptureSettings([0, 1, 2, -1]))
    assert compare_runs(first, described(tiny, capture=CaptureSettings("layer_*"))) == []


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"limit": 5}, {"limit"}),
        ({"generation": GenerationSettings(batch_size=4)}, {"generation.batch_size"}),
        ({"generation": GenerationSettings(temperature=0.5, seed=3)}, {"generation.temperature", "generation.seed"}),
        (
            {"generation": GenerationSettings(temperature=1.0), "num_trials": 2},
            {"generation.temperature", "num_trials"},
        ),
        ({"capture": CaptureSettings(0)}, {"capture"}),
    ],
)
def test_every_setting_that_changes_an_answer_is_a_difference(tiny, settings, changed):
    assert set(keys(described(tiny), described(tiny, **settings))) == changed


def test_what_is_captured_and_how_it_is_stored_are_told_apart(tiny):
    first = described(tiny, capture=CaptureSettings(Selection([0, 1])))
    other = Selection([0, 2], positions="last", reduce="mean", dtype="float16")
    second = described(tiny, capture=CaptureSettings(other, "output_hidden_states", "zstd"))
    names = ["sites", "positions", "reduce", "dtype", "strategy", "storage"]
    assert keys(first, second) == [f"capture.{name}" for name in names]


def test_how_files_are_cut_and_flushed_does_not_define_a_run(tiny):
    other = described(tiny, layout="files", shard_bytes=5, flush_every=None, max_disk_bytes=10)
    assert compare_runs(described(tiny), other) == []


def test_other_prompts_to_the_same_questions_are_another_run(tiny):
    assert keys(described(tiny), described(tiny, Shouting())) == ["benchmark.fingerprint"]


def test_the_same_name_with_other_weights_is_another_run(tiny):
    other = copy.deepcopy(tiny.model)
    with torch.no_grad():
        other.model.layers[3].mlp.down_proj.weight[-1, -1] += 1
    assert keys(described(tiny), described(LoadedModel("tiny", other, tiny.tokenizer))) == ["model.weights"]


def test_another_chat_template_is_another_run(tiny):
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    chatty = LoadedModel("tiny", tiny.model, tokenizer)
    assert keys(described(tiny), described(chatty)) == ["benchmark.fingerprint", "prompt.chat", "prompt.template"]
    plain = described(chatty, prompting=Prompting(chat=False))
    assert compare_runs(described(tiny), plain) == []


def test_versions_device_and_kernel_are_circumstances(tiny):
    first, second = described(tiny), described(tiny)
    second.update(device="cuda:0", attn_implementation="eager", versions={**versions(), "torch": "9.9"})
    found = compare_runs(first, second)
    assert [each.key for each in found] == ["device", "attn_implementation", "versions.torch"]
    assert all(each.is_circumstance for each in found)
    assert not any(each.is_circumstance for each in compare_runs(first, described(tiny, limit=2)))


def test_what_only_a_newer_version_says_is_no_difference_between_the_runs(tiny):
    older = described(tiny)
    older["versions"] = {**versions(), "actframe": "0.0.9"}
    del older["model"]["weights"]
    found = {each.key: each.is_circumstance for each in compare_runs(older, described(tiny))}
    assert found == {"model.weights": True, "versions.actframe": True}


def test_differences_are_shown_in_few_words(tiny):
    first = described(tiny, capture=CaptureSettings([0, 1, 2]))
    second = described(tiny, Shouting(), capture=CaptureSettings([0, 1, 3]))
    shown = {each.key: str(each) for each in compare_runs(first, second)}
    assert shown["capture.sites"] == "capture.sites: layer_2 (1) -> layer_3 (1)"
    (limit,) = compare_runs(first, described(tiny, capture=CaptureSettings([0, 1, 2]), limit=None))
    assert str(limit) == "limit: 4 -> none"
    assert shown["benchmark.fingerprint"].startswith(f"benchmark.fingerprint: {first['benchmark']['fingerprint'][:19]}")
    (capture,) = [each for each in compare_runs(described(tiny), first) if each.key == "capture"]
    assert str(capture) == (
        "capture: none -> sites layer_0 .. layer_2 (3), positions all, strategy hooks, storage safetensors"
    )
