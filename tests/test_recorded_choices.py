"""Runs that record each choice as well: what its record holds, and that it is never taken for an answer."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_ranked_runs import Facts, Filled
from toys import Toy, assert_same_answers, interrupted_at_forward

from actframe import ActivationRecorder, ActivationStore, SettingsError
from actframe.benchmarks.prompting import Completion
from actframe.capture.selection import Selection
from actframe.runs.estimate import estimate_run
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.runs.settings import RunSettings
from actframe.runs.stored_results import read_results
from actframe.storage.ledger_lines import MISSING
from actframe.testing import tiny_model, tiny_tokenizer

START = 258


class Letters(Toy):
    """Nine questions whose choices are compared by their letters, one token each."""

    name = "letters"

    def completions(self, question):
        shown = "\n".join(f"{letter}. {text}" for letter, text in zip(question.letters, question.choices, strict=True))
        return [Completion(f"Q: {question.text}\n{shown}\nAnswer:", f"{letter}") for letter in question.letters]


def choosing(select=None, records=True, **more):
    generation = GenerationSettings(batch_size=4)
    capture = CaptureSettings(select)
    return RunSettings(generation=generation, capture=capture, scoring="loglikelihood", record_choices=records, **more)


def split(store):
    """The answers of a store, and the records of choices."""
    answers = [record for record in store if "choice" not in record]
    return answers, [record for record in store if "choice" in record]


def alone(loaded, record):
    """What one bare forward pass over the whole sequence of a record gives."""
    ids = record.input_ids if loaded.is_encoder_decoder else [*record.input_ids, *record.output_ids]
    more = {"decoder_input_ids": torch.tensor([[START, *record.output_ids]])} if loaded.is_encoder_decoder else {}
    with torch.no_grad(), ActivationRecorder(loaded.model) as recorder:
        loaded.model(torch.tensor([ids]), **more)
    (found,) = recorder.records
    return found


@pytest.mark.parametrize("benchmark", [Facts, Letters, Filled])
def test_each_choice_has_a_record_of_the_whole_sequence_that_was_compared(benchmark, tiny, tmp_path):
    result = BenchmarkRun(tiny, benchmark(), tmp_path, choosing()).execute()
    store = ActivationStore(tmp_path)
    answers, choices = split(store)
    assert len(choices) == sum(len(answer.loglikelihoods) for answer in answers)
    for answer, question in zip(result.answers, benchmark().questions(), strict=True):
        of_question = [record for record in store.where(question_id=question.id) if "choice" in record]
        assert [record.choice for record in of_question] == list(range(len(question.choices)))
        assert [record.logprob for record in of_question] == answer["loglikelihoods"]
        assert [record.is_greedy for record in of_question] == answer["greedy"]
        assert [record.choice_text for record in of_question] == list(question.choices)
        assert "".join(record.choice_label for record in of_question) == question.letters
        assert [record.is_expected for record in of_question] == [each == question.answer for each in question.letters]
        for record, completion in zip(of_question, benchmark().completions(question), strict=True):
            text = completion.context + completion.continuation
            assert tiny.tokenizer.decode([*record.input_ids, *record.output_ids]) == text
            assert tiny.tokenizer.decode(record.output_ids[-record.scored_tokens :]) == completion.continuation
            whole = alone(tiny, record)
            assert record.positions == whole.positions
            assert list(record.activations) == list(whole.activations)
            for site, tensor in whole.activations.items():
                torch.testing.assert_close(record.activations[site], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("benchmark", [Facts, Letters])
def test_what_is_live_is_what_the_passes_of_a_plain_run_computed_to_the_bit(benchmark, tiny, tmp_path):
    computed = set()

    def note(module, args, output):
        computed.update(row.numpy().tobytes() for row in output.flatten(0, 1))

    with tiny.model.model.layers[1].register_forward_hook(note):
        BenchmarkRun(tiny, benchmark(), tmp_path / "plain", RunSettings(scoring="loglikelihood")).execute()
    before = len(computed)
    asked = RunSettings(scoring="loglikelihood", capture=CaptureSettings("layer_1"), record_choices=True)
    BenchmarkRun(tiny, benchmark(), tmp_path / "choices", asked).execute()
    answers, choices = split(ActivationStore(tmp_path / "choices"))
    prompts = {answer.question_id: answer.activations["layer_1"] for answer in answers}
    for record in choices:
        assert record.recorded == "live"
        rows = record.activations["layer_1"]
        assert len(rows) == len(record.input_ids) + len(record.output_ids)
        # The last token is computed for the record alone: its likelihood is known before.
        assert all(row.numpy().tobytes() in computed for row in rows[:-1])
        assert torch.equal(rows[: len(record.input_ids)], prompts[record.question_id])
    assert len(computed) == before > len(choices)


@pytest.mark.parametrize("benchmark", [Facts, Letters, Filled])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_choices_changes_nothing_of_what_is_compared_and_of_the_answers(benchmark, dtype, tmp_path):
    loaded = LoadedModel("tiny", tiny_model("llama").to(dtype), tiny_tokenizer())
    plain = BenchmarkRun(loaded, benchmark(), tmp_path / "plain", choosing(records=False)).execute()
    found = BenchmarkRun(loaded, benchmark(), tmp_path / "choices", choosing()).execute()
    assert [dict(answer) for answer in found.answers] == [dict(answer) for answer in plain.answers]
    assert found.summary == plain.summary
    store = ActivationStore(tmp_path / "choices")
    assert_same_answers(store.where(choice=MISSING), ActivationStore(tmp_path / "plain"))


FAMILIES = {
    "gpt2": ("live", {}),
    "gemma3_text": ("replay", {"sliding_window": 16}),
    "mamba": ("replay", {"state_size": 8, "conv_kernel": 4, "num_hidden_layers": 2}),
    "bloom": ("replay", {"n_layer": 2, "n_head": 4}),
    "t5": ("replay", {}),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("benchmark", [Facts, Letters])
def test_models_that_cannot_go_on_from_the_prompt_compute_choices_once_more_and_say_so(benchmark, family, tmp_path):
    recorded, options = FAMILIES[family]
    loaded = LoadedModel(f"tiny-{family}", tiny_model(family, **options), tiny_tokenizer())
    plain = BenchmarkRun(loaded, benchmark(), tmp_path / "plain", choosing(records=False)).execute()
    found = BenchmarkRun(loaded, benchmark(), tmp_path / "choices", choosing()).execute()
    assert [dict(answer) for answer in found.answers] == [dict(answer) for answer in plain.answers]
    answers, choices = split(ActivationStore(tmp_path / "choices"))
    assert (len(answers), len(choices)) == (9, 36)
    assert {record.recorded for record in choices} == {recorded}
    assert {record.recorded for record in answers} == {"live"}
    for record in choices:
        whole = alone(loaded, record)
        assert record.positions == whole.positions
        assert list(record.activations) == list(whole.activations)
        for site, tensor in whole.activations.items():
            torch.testing.assert_close(record.activations[site], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "recorded"), [("llama", "live"), ("gemma3_text", "replay")])
def test_another_strategy_has_the_same_sites_in_choices_as_in_answers(family, recorded, tmp_path):
    options = {"sliding_window": 16} if family == "gemma3_text" else {}
    loaded = LoadedModel("tiny", tiny_model(family, **options), tiny_tokenizer())
    capture = CaptureSettings(strategy="output_hidden_states")
    asked = RunSettings(limit=3, scoring="loglikelihood", capture=capture, record_choices=True)
    BenchmarkRun(loaded, Facts(), tmp_path, asked).execute()
    answers, choices = split(ActivationStore(tmp_path))
    assert {tuple(record.sites) for record in choices} == {tuple(record.sites) for record in answers}
    assert {record.recorded for record in choices} == {recorded}
    for record in choices:
        whole = alone(loaded, record)
        for site, tensor in record.activations.items():
            torch.testing.assert_close(tensor, whole.activations[site], atol=1e-4, rtol=1e-4)


def test_a_batch_that_memory_does_not_suffice_for_is_halved_and_holds_each_choice_once(tiny, tmp_path):
    def refuse(module, args, kwargs, output):
        # The pass over the prompts fits, and those that go on from it do not.
        held, (rows, width) = kwargs.get("past_key_values"), kwargs["input_ids"].shape
        if rows > 2 and held is not None and held.get_seq_length() > width:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        tiny.model.register_forward_hook(refuse, with_kwargs=True),
        pytest.warns(RuntimeWarning, match="memory does not suffice"),
    ):
        BenchmarkRun(tiny, Facts(), tmp_path, choosing("layer_1")).execute()
    store = ActivationStore(tmp_path)
    expected = {(f"toy/{question}", choice) for question in range(9) for choice in (0, 1, 2, 3, None)}
    assert len(store) == len(expected)
    assert {(record.question_id, record.get("choice")) for record in store} == expected


def test_positions_mean_the_prompt_and_the_choice_as_its_response(tiny, tmp_path):
    for positions in ("last", "response", "last_prompt"):
        chosen = Selection(["layer_1"], positions=positions)
        BenchmarkRun(tiny, Facts(), tmp_path / positions, choosing(chosen)).execute()
        for record in split(ActivationStore(tmp_path / positions))[1]:
            prompt, end = len(record.input_ids), len(record.input_ids) + len(record.output_ids)
            expected = {"last": [end - 1], "response": list(range(prompt, end)), "last_prompt": [prompt - 1]}
            assert record.positions == expected[positions]
            assert len(record.activations["layer_1"]) == len(record.positions)
    answers, _ = split(ActivationStore(tmp_path / "response"))
    assert all(answer.positions == [] for answer in answers)


def test_nothing_that_counts_answers_counts_choices(tiny, tmp_path):
    run = BenchmarkRun(tiny, Facts(), tmp_path, choosing("layer_1"))
    result = run.execute()
    assert (len(result.answers), result.new, result.summary.questions) == (9, 9, 9)
    (stored,) = read_results(tmp_path)
    assert (len(stored.result.answers), stored.result.partial) == (9, False)
    assert stored.result.summary == result.summary
    assert json.loads((tmp_path / "results.json").read_text())["answers"] == {"done": 9, "total": 9}
    store = ActivationStore(tmp_path)
    assert len(store) == 45
    assert len(store.where(correct=True)) + len(store.where(correct=False)) == 9
    table = store.where(choice=MISSING).table(["question_id", "correct", "extracted_answer"])
    assert len(table) == 9
    assert not table["question_id"].duplicated().any()
    assert len(store.where(choice=MISSING).torch_dataset("layer_1", target="correct")) == 9
    assert len(store.where(is_expected=True)) == 9
    assert not run.remaining()


@pytest.mark.parametrize("forward", [3, 9, 14, 22])
def test_a_run_that_is_killed_between_choices_and_answer_holds_each_once_after_it_went_on(forward, tiny, tmp_path):
    asked = choosing("layer_1", flush_every=1)
    BenchmarkRun(tiny, Facts(), tmp_path / "whole", asked).execute()
    parts = BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked)
    with interrupted_at_forward(tiny.model, forward), pytest.raises(KeyboardInterrupt):
        parts.execute()
    resumed = BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked)
    resumed.execute()
    assert_same_records(tmp_path)


def assert_same_records(tmp_path):
    stores = ActivationStore(tmp_path / "parts"), ActivationStore(tmp_path / "whole")
    assert_same_answers(*(store.where(choice=MISSING) for store in stores))
    for number in range(4):
        assert_same_answers(*(store.where(choice=number) for store in stores))
    assert len(stores[0]) == 45


@pytest.mark.parametrize("kept", [0, 1, 4, 5, 7, 12, 44])
def test_what_of_a_question_is_not_on_disk_is_added_and_nothing_twice(kept, tiny, tmp_path):
    asked = choosing("layer_1")
    BenchmarkRun(tiny, Facts(), tmp_path / "whole", asked).execute()
    run = BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked)
    append, taken = run.layout.append, []

    def some(record):
        if len(taken) == kept:
            raise KeyboardInterrupt
        taken.append(record)
        append(record)

    run.layout.append = some
    with pytest.raises(KeyboardInterrupt):
        run.execute()
    assert len(ActivationStore(tmp_path / "parts")) == kept
    done = sum("choice" not in record for record in taken)
    assert run.result.circumstances["answers"]["done"] == done
    resumed = BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked).execute()
    assert resumed.new == 9 - done
    assert_same_records(tmp_path)


KILLED = """
import os, signal, sys
from test_recorded_choices import Facts, choosing
from actframe.runs.models import LoadedModel
from actframe.runs.run import BenchmarkRun
from actframe.testing import tiny_model, tiny_tokenizer

loaded = LoadedModel("tiny", tiny_model("llama"), tiny_tokenizer())
run = BenchmarkRun(loaded, Facts(), sys.argv[1], choosing("layer_1"))
append, taken = run.layout.append, []

def kill(record):
    append(record)
    run.layout.flush()
    taken.append(record)
    if len(taken) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

run.layout.append = kill
run.execute()
"""


def test_kill_9_between_the_choices_of_a_question_costs_and_doubles_nothing(tiny, tmp_path):
    asked = choosing("layer_1")
    BenchmarkRun(tiny, Facts(), tmp_path / "whole", asked).execute()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "parts"), "8"]
    killed = subprocess.run(command, cwd=str(Path(__file__).parent), capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = ActivationStore(tmp_path / "parts")
    assert [record.get("choice") for record in left] == [0, 1, 2, 3, None, 0, 1, 2]
    assert BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked).execute().new == 8
    assert_same_records(tmp_path)


def test_a_ledger_that_is_lost_comes_back_with_every_choice(tiny, tmp_path):
    for name in ("whole", "parts"):
        BenchmarkRun(tiny, Facts(), tmp_path / name, choosing("layer_1")).execute()
    for path in (tmp_path / "parts" / "ledger").iterdir():
        path.unlink()
    with pytest.warns(RuntimeWarning, match="committed 45 records"):
        ActivationStore(tmp_path / "parts")
    assert_same_records(tmp_path)


def test_choices_of_a_lost_shard_come_back_beside_the_answers_that_stayed(tiny, tmp_path):
    asked = choosing("layer_1", shard_bytes=1)
    for name in ("whole", "parts"):
        BenchmarkRun(tiny, Facts(), tmp_path / name, asked).execute()
    ledger = ActivationStore(tmp_path / "parts").ledger
    lost = next(number for number, choice in enumerate(ledger.column("choice")) if choice == 2)
    (tmp_path / "parts" / "shards" / ledger.shards[ledger.shard_numbers[lost]]).unlink()
    run = BenchmarkRun(tiny, Facts(), tmp_path / "parts", asked)
    assert [sum(not job.is_done(run.layout.done()) for job in batch) for batch in run.remaining()] == [1]
    with pytest.warns(RuntimeWarning, match="1 shard is missing"):
        assert run.execute().new == 0
    with pytest.warns(RuntimeWarning, match="1 shard is missing"):
        assert_same_records(tmp_path)


def test_the_estimate_and_the_limit_on_the_disk_know_of_choices(tiny, tmp_path):
    estimate = estimate_run(BenchmarkRun(tiny, Facts(), tmp_path / "estimated", choosing()))
    plain = estimate_run(BenchmarkRun(tiny, Facts(), tmp_path / "estimated", choosing(records=False)))
    assert estimate.answers == plain.answers == 9
    run = BenchmarkRun(tiny, Facts(), tmp_path / "run", choosing())
    run.execute()
    written = run.layout.written().bytes_on_disk
    assert 0.8 * written < estimate.disk_bytes < 1.25 * written
    assert estimate.disk_bytes > 4 * plain.disk_bytes
    limit = 8 * written // 10
    ended = BenchmarkRun(tiny, Facts(), tmp_path / "ended", choosing(max_disk_bytes=limit))
    result = ended.execute()
    assert result.partial
    assert 0 < len(result.answers) < 9
    assert ended.layout.written().bytes_on_disk <= limit


def test_a_choice_whose_last_token_has_no_place_is_left_out_with_its_question(tiny, tmp_path):
    class Long(Facts):
        def completions(self, question):
            return [Completion("x" * (127 if question.id == "toy/3" else 10), each) for each in ("ab", "cd", "ef", "g")]

    BenchmarkRun(tiny, Long(), tmp_path / "plain", choosing(records=False)).execute()
    with pytest.warns(RuntimeWarning, match="1 of 9 questions are left out"):
        run = BenchmarkRun(tiny, Long(), tmp_path / "choices", choosing())
    run.execute()
    assert run.plan.too_long == ["toy/3"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"scoring": "generate"}, "nothing is; leave it out, or use scoring='loglikelihood'"),
        ({"capture": None}, "nothing is captured; give capture"),
        ({"layout": "files"}, "use the layout 'store'"),
    ],
)
def test_choices_that_cannot_be_recorded_are_refused(more, said):
    asked = {"capture": CaptureSettings(), "scoring": "loglikelihood", "record_choices": True, **more}
    with pytest.raises(SettingsError, match=said):
        RunSettings(**asked)


def test_a_run_with_choices_is_another_than_one_without(tiny, tmp_path):
    BenchmarkRun(tiny, Facts(), tmp_path, choosing(records=False)).execute()
    with pytest.raises(SettingsError, match="recorded_choices: none -> 36"):
        BenchmarkRun(tiny, Facts(), tmp_path, choosing())
