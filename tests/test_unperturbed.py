"""The receipt that recording changes nothing, and what it says where something does."""

import json
from dataclasses import replace

import pytest
import torch
from toys import Toy, hooks_of, settings
from typer.testing import CliRunner

from actframe.benchmarks.general import General
from actframe.cli.main import app
from actframe.runs.generation import GenerationSettings
from actframe.runs.plan import RunPlan
from actframe.runs.settings import RunSettings
from actframe.runs.unperturbed import check_unperturbed
from actframe.testing import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.0}])
def test_recording_changes_neither_texts_nor_logits(drawn, tiny):
    receipt = check_unperturbed(tiny, Toy(), settings(**drawn), 5, repetitions=1)
    assert receipt.is_unperturbed
    assert (receipt.questions, receipt.sites, receipt.tokens) == (5, 5, 30)
    assert receipt.seconds_plain > 0
    assert receipt.as_json()["overhead"] == receipt.seconds_recorded / receipt.seconds_plain - 1


def perturbed(model, size):
    """Changes one logit of one row by very little, in every second call of `generate`: the one that is recorded."""
    calls = []

    def count(_, arguments, keywords):
        calls.append(keywords.get("past_key_values").get_seq_length() == 0)

    def change(_, arguments, output):
        if sum(calls) % 2 == 0:
            output.logits[1, -1, 7] += size
        return output

    begin = model.register_forward_pre_hook(count, with_kwargs=True)
    end = model.register_forward_hook(change)
    return begin, end


def test_a_perturbation_is_noticed_and_the_question_is_named(tiny):
    handles = perturbed(tiny.model, 1e-6)
    try:
        receipt = check_unperturbed(tiny, Toy(), settings(), 3, repetitions=1)
    finally:
        for handle in handles:
            handle.remove()
    assert not receipt.is_unperturbed
    assert receipt.different["texts"] == []
    assert len(receipt.different["logits"]) == 1


def test_a_perturbation_that_changes_what_is_said_is_noticed_twice(tiny):
    handles = perturbed(tiny.model, 1e6)
    try:
        receipt = check_unperturbed(tiny, Toy(), settings(), 3, repetitions=1)
    finally:
        for handle in handles:
            handle.remove()
    assert receipt.different["texts"] == receipt.different["logits"]
    assert len(receipt.different["texts"]) == 1


RANKED = RunSettings(scoring="loglikelihood", generation=GenerationSettings(batch_size=2))


def test_recording_changes_no_loglikelihood_of_choices_that_are_ranked(tiny):
    receipt = check_unperturbed(tiny, General(), RANKED, 5, repetitions=1)
    assert receipt.is_unperturbed
    assert receipt.different == {"loglikelihoods": []}
    jobs = RunPlan(tiny, General(), replace(RANKED, limit=5)).jobs
    assert (receipt.questions, receipt.sites) == (5, 5)
    assert receipt.tokens == sum(len(choice.continuation) for job in jobs for choice in job.ranking.choices)
    assert receipt.as_json()["different_loglikelihoods"] == []


def test_a_loglikelihood_that_differs_while_recording_is_noticed_and_its_question_named(tiny):
    def change(_, arguments, output):
        if hooks_of(tiny.model) != unrecorded:
            output.logits[0, -1] *= 1.01
        return output

    handle = tiny.model.register_forward_hook(change)
    unrecorded = hooks_of(tiny.model)
    try:
        receipt = check_unperturbed(tiny, General(), RANKED, 2, repetitions=1)
    finally:
        handle.remove()
    assert not receipt.is_unperturbed
    assert len(receipt.different["loglikelihoods"]) == 1


def test_the_command_prints_the_receipt_and_writes_nothing(tmp_path):
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    command = ["run", "--model", str(tmp_path / "tiny"), "--check-unperturbed", "2", "--max-new-tokens", "3"]
    command += ["--layers", "0,1", "--activation-save-dir", str(tmp_path / "out")]
    printed = CliRunner(env={"COLUMNS": "100"}).invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert "identical for 2 of 2 questions" in printed.stdout
    assert "recording changed nothing" in printed.stdout
    assert not (tmp_path / "out").exists()
    as_json = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(as_json.stdout)["is_unperturbed"] is True
    assert json.loads(as_json.stdout)["sites"] == 2


def test_the_command_compares_loglikelihoods_where_choices_are_ranked(tmp_path):
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    command = ["run", "--model", str(tmp_path / "tiny"), "--check-unperturbed", "2", "--scoring", "loglikelihood"]
    command += ["--layers", "0,1", "--activation-save-dir", str(tmp_path / "out")]
    printed = CliRunner(env={"COLUMNS": "100"}).invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert "loglikelihoods" in printed.stdout
    assert "identical for 2 of 2 questions" in printed.stdout
    assert "recording changed nothing" in printed.stdout


def test_nans_and_signs_of_zeros_count():
    from actframe.runs.unperturbed import _same_bits

    nan = torch.tensor([float("nan"), 0.0])
    assert _same_bits([nan], [nan.clone()])
    assert not _same_bits([nan], [torch.tensor([float("nan"), -0.0])])
    assert not _same_bits([nan, nan], [nan])
