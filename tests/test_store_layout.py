"""A run in a store: it goes on where it ended, and becomes what it would have been."""

import contextlib
import json
import multiprocessing
import time
from dataclasses import asdict
from datetime import timedelta

import pytest
import torch
from toys import Toy, assert_same_answers, files_up_to, interrupted_at_forward, no_forward, settings

from actframe import ActivationStore, Selection, load_activations
from actframe.benchmarks.general import General
from actframe.errors import PromptError, SettingsError, StorageError
from actframe.runs.generation import GenerationSettings
from actframe.runs.ledger_answers import find_answers
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun, RunSettings
from actframe.runs.statistics import summarize, summarize_by_subject
from actframe.storage.folders import LocalFolder
from actframe.testing import random_record

DRAWN = {"capture": CaptureSettings(), "num_trials": 3, "temperature": 1.0, "seed": 5}


def execute(model, folder, chosen, progress=None, **options):
    return BenchmarkRun(model, Toy(), folder, chosen, **options).execute(progress)


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt_at(number):
    def interrupt(progress):
        if progress.done == number:
            raise KeyboardInterrupt

    return interrupt


def test_a_store_holds_what_files_would_hold(tiny, tmp_path):
    execute(tiny, tmp_path / "files", settings(capture=CaptureSettings(), layout="files"))
    result = execute(tiny, tmp_path / "store", settings(capture=CaptureSettings()))
    lines = [json.loads(line) for line in (tmp_path / "files" / "answers.jsonl").read_text().splitlines()]
    store = ActivationStore(tmp_path / "store")
    assert [record.question_id for record in store] == [line["question_id"] for line in lines]
    for record, line in zip(store, lines, strict=True):
        saved = load_activations(tmp_path / "files" / line.pop("activations"))
        assert {key: record[key] for key in line} == line
        assert {**record, "timestamp": None, "activations": None} == {**saved, "timestamp": None, "activations": None}
        assert all(torch.equal(tensor, saved["activations"][site]) for site, tensor in record.activations.items())
    by_id = {line["question_id"]: line for line in lines}
    assert list(result.answers) == [by_id[f"toy/{number}"] for number in range(9)]


def test_without_activations_the_ledger_is_the_answers(tiny, tmp_path):
    result = execute(tiny, tmp_path, settings())
    (ledger,) = (tmp_path / "ledger").glob("*.jsonl")
    lines = {line["question_id"]: line for line in map(json.loads, ledger.read_text().splitlines())}
    assert len(lines) == 9
    for answer in result.answers:
        assert answer.items() <= lines[answer["question_id"]].items()
    record = ActivationStore(tmp_path)[0]
    assert (dict(record.activations), record.sites, record.model, record.device) == ({}, [], "tiny", "cpu")
    assert record.output_tokens == len(record.output_ids)
    assert record.transformers_version


def test_results_are_of_all_answers_in_the_order_of_the_questions(tiny, tmp_path):
    told = []
    result = execute(tiny, tmp_path, settings(num_trials=2, temperature=1.0), told.append)
    keys = [(f"toy/{number}", trial) for trial in (0, 1) for number in range(9)]
    assert [(answer["question_id"], answer["trial"]) for answer in result.answers] == keys
    assert result.answers[3] == list(result.answers)[3]
    assert [answer["trial"] for answer in result.answers[8:10]] == [0, 1]
    answers = list(result.answers)
    assert result.summary == summarize(answers)
    assert result.by_subject == summarize_by_subject(answers)
    written = results_in(tmp_path)
    assert written == json.loads(json.dumps(result.as_json()))
    assert written["summary"] == asdict(result.summary)
    assert (written["partial"], written["reason"], written["answers"]) == (False, None, {"done": 18, "total": 18})
    (sitting,) = written["sittings"]
    assert (sitting["answers"], sitting["device"]) == (18, "cpu")
    tokens = sum(answer["output_tokens"] for answer in answers)
    assert written["output_tokens"] == sitting["generated_tokens"] == tokens
    assert written["bytes_on_disk"] == ActivationStore(tmp_path).bytes_on_disk
    assert [each.done for each in told] == [*range(19), 18]
    assert told[-2].written.queued_records == 18
    assert (told[-1].written.queued_bytes, told[-1].written.bytes_on_disk) == (0, written["bytes_on_disk"])


def test_a_run_that_is_complete_is_read_and_not_run(tiny, tmp_path):
    chosen = settings(capture=CaptureSettings())
    first = execute(tiny, tmp_path, chosen)
    before = files_in(tmp_path)
    with no_forward(tiny.model):
        again = execute(tiny, tmp_path, chosen)
    assert (again.new, again.partial) == (0, False)
    assert (again.as_json(), list(again.answers)) == (first.as_json(), list(first.answers))
    assert files_in(tmp_path) == before


def test_results_that_were_never_written_are_made_from_the_answers(tiny, tmp_path):
    first = execute(tiny, tmp_path, settings())
    (tmp_path / "results.json").unlink()
    with no_forward(tiny.model):
        again = execute(tiny, tmp_path, settings())
    assert again.summary == first.summary
    assert results_in(tmp_path)["answers"] == {"done": 9, "total": 9}


@pytest.mark.parametrize("flush_every", [None, 1, 5])
@pytest.mark.parametrize("done", [0, 1, 6, 12, 26])
def test_a_resumed_run_is_that_of_one_that_was_never_interrupted(done, flush_every, tiny, tmp_path):
    """Answers are drawn, and most of these interrupts come in the middle of a batch."""
    chosen = settings(**DRAWN, flush_every=flush_every)
    whole = execute(tiny, tmp_path / "whole", chosen)
    with pytest.raises(KeyboardInterrupt):
        execute(tiny, tmp_path / "parts", chosen, interrupt_at(done))
    assert len(ActivationStore(tmp_path / "parts")) == done
    assert (results_in(tmp_path / "parts")["partial"], results_in(tmp_path / "parts")["reason"]) == (
        True,
        "interrupted",
    )
    told = []
    resumed = execute(tiny, tmp_path / "parts", chosen, told.append)
    assert (told[0].done, told[0].earlier, told[-1].done) == (done, done, 27)
    assert resumed.new == 27 - done
    assert_same_answers(ActivationStore(tmp_path / "parts"), ActivationStore(tmp_path / "whole"))
    assert list(resumed.answers) == list(whole.answers)
    assert resumed.summary == whole.summary
    written = results_in(tmp_path / "parts")
    assert [sitting["answers"] for sitting in written["sittings"]] == [done, 27 - done]
    assert written["seconds"] == sum(sitting["seconds"] for sitting in written["sittings"])
    assert written["output_tokens"] == results_in(tmp_path / "whole")["output_tokens"]


@pytest.mark.parametrize(("calls", "kept"), [(2, 0), (10, 4)])
def test_an_interrupt_while_the_model_runs_drops_the_batch_in_work(calls, kept, tiny, tmp_path):
    """Ten forwards: one to see how large answers are, six of the first batch of four, and half of the second."""
    run = BenchmarkRun(tiny, Toy(), tmp_path, settings(capture=CaptureSettings()))
    with interrupted_at_forward(tiny.model, calls), pytest.raises(KeyboardInterrupt):
        run.execute()
    assert (len(run.result.answers), run.result.partial) == (kept, True)
    assert len(ActivationStore(tmp_path)) == kept
    assert results_in(tmp_path)["answers"] == {"done": kept, "total": 9}
    assert len(run.execute().answers) == 9


def test_a_shard_that_is_lost_is_filled_by_running_again(tiny, tmp_path):
    chosen = settings(**DRAWN, shard_bytes=1)
    execute(tiny, tmp_path / "whole", chosen)
    execute(tiny, tmp_path / "lost", chosen)
    lost = sorted((tmp_path / "lost" / "shards").iterdir())[3:8]
    for shard in lost:
        shard.unlink()
    with pytest.warns(RuntimeWarning, match="5 shards are missing"):
        assert execute(tiny, tmp_path / "lost", chosen).new == 5
    assert_same_answers_with_a_gap(tmp_path)


def assert_same_answers_with_a_gap(folder):
    with pytest.warns(RuntimeWarning, match="shards are missing"):
        found = ActivationStore(folder / "lost")
    assert_same_answers(found, ActivationStore(folder / "whole"))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"limit": 5}, r"limit: none -> 5\."),
        ({"batch_size": 2}, r"generation\.batch_size: 4 -> 2\."),
        ({"capture": CaptureSettings(0)}, "capture: none -> sites layer_0"),
    ],
)
def test_another_run_is_refused_with_every_difference(other, difference, tiny, tmp_path):
    execute(tiny, tmp_path, settings())
    before = files_in(tmp_path)
    with pytest.raises(
        SettingsError, match=f"{tmp_path} holds another run .*{difference}.*another folder.*--overwrite"
    ):
        BenchmarkRun(tiny, Toy(), tmp_path, settings(**other))
    assert files_in(tmp_path) == before


def test_what_does_not_change_answers_may_be_changed(tiny, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        execute(tiny, tmp_path, settings(), interrupt_at(5))
    other = settings(shard_bytes=1000, flush_every=timedelta(seconds=1), max_disk_bytes=10**9)
    assert execute(tiny, tmp_path, other).new == 4


def test_other_circumstances_are_warned_of(tiny, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        execute(tiny, tmp_path, settings(), interrupt_at(5))
    content = json.loads((tmp_path / "run.json").read_text())
    content["run"]["versions"]["torch"] = "2.0.0"
    content["run"]["device"] = "cuda:0"
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.warns(
        RuntimeWarning, match=r"other circumstances.*device: cuda:0 -> cpu; versions\.torch: 2\.0\.0 -> "
    ):
        assert execute(tiny, tmp_path, settings()).new == 4


def test_overwriting_replaces_the_run_and_nothing_else(tiny, tmp_path):
    execute(tiny, tmp_path, settings(capture=CaptureSettings()))
    (tmp_path / "notes.txt").write_text("mine")
    run = BenchmarkRun(tiny, Toy(), tmp_path, settings(limit=5, capture=CaptureSettings(0)), overwrite=True)
    assert len(ActivationStore(tmp_path)) == 9
    with pytest.raises(KeyboardInterrupt):
        run.execute(interrupt_at(4))
    store = ActivationStore(tmp_path)
    assert (len(store), store.sites, store.run["limit"]) == (4, ["layer_0"], 5)
    assert run.execute().new == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(results_in(tmp_path)["sittings"]) == 2


class Endless(Toy):
    def prompt(self, question):
        return "x" * 500


def test_what_is_there_stays_where_the_run_that_replaces_it_cannot_begin(tiny, tmp_path, monkeypatch):
    execute(tiny, tmp_path, settings(capture=CaptureSettings()))
    before = files_in(tmp_path)
    with pytest.raises(PromptError):
        BenchmarkRun(tiny, Endless(), tmp_path, settings(), overwrite=True)
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: 0)
    other = settings(capture=CaptureSettings(), max_new_tokens=7, num_trials=100, temperature=1.0)
    with pytest.raises(StorageError, match="the activations of the prompts alone take"):
        execute(tiny, tmp_path, other, overwrite=True)
    assert files_in(tmp_path) == before


def test_a_store_of_other_records_is_never_replaced(tiny, tmp_path):
    with ActivationStore(tmp_path / "mine") as store:
        store.append(random_record(0, 3))
    for overwrite in (False, True):
        with pytest.raises(StorageError, match="a store that is not of a benchmark run"):
            BenchmarkRun(tiny, Toy(), tmp_path / "mine", settings(), overwrite=overwrite)


def test_a_store_that_was_made_from_others_is_not_gone_on_with(tiny, tmp_path):
    execute(tiny, tmp_path, settings())
    content = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**content, "origin": {"converted": "elsewhere"}}))
    for overwrite in (False, True):
        with pytest.raises(StorageError, match="a store that was made from others; give another folder"):
            BenchmarkRun(tiny, Toy(), tmp_path, settings(), overwrite=overwrite)


def test_a_folder_of_other_things_is_refused(tiny, tmp_path):
    (tmp_path / "notes.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(StorageError, match=r"is not a store, and holds other things \(notes\.txt\)"):
            BenchmarkRun(tiny, Toy(), tmp_path, settings(), overwrite=overwrite)


def hold(folder, held, let_go):
    store = ActivationStore(folder)
    store.begin()
    held.set()
    let_go.wait(60)
    store.close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_another_process_writes_is_refused(overwrite, tiny, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        execute(tiny, tmp_path, settings(), interrupt_at(5))
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), held, let_go))
    process.start()
    try:
        assert held.wait(60)
        with pytest.raises(StorageError, match=r"another process is writing to .*: it has ledger/\d+T.*\.jsonl open"):
            BenchmarkRun(tiny, Toy(), tmp_path, settings(), overwrite=overwrite)
    finally:
        let_go.set()
        process.join()
    assert execute(tiny, tmp_path, settings(), overwrite=overwrite).new == (9 if overwrite else 4)


def test_of_two_runs_that_begin_at_the_same_moment_neither_writes_beside_the_other(tiny, tmp_path, monkeypatch):
    begin, others = ActivationStore.begin, []

    def begin_second(store):
        other = ActivationStore(tmp_path)
        others.append(other)
        begin(other)
        begin(store)

    run = BenchmarkRun(tiny, Toy(), tmp_path, settings())
    monkeypatch.setattr(ActivationStore, "begin", begin_second)
    with pytest.raises(StorageError, match=r"another process is writing .*jsonl or ledger/.*jsonl open"):
        run.execute()
    assert not (tmp_path / "results.json").exists()
    others[0].close()
    monkeypatch.undo()
    assert len(ActivationStore(tmp_path)) == 0
    assert run.execute().new == 9


def test_a_run_ends_before_it_takes_more_disk_than_it_may_and_goes_on_later(tiny, tmp_path):
    whole = execute(tiny, tmp_path / "whole", settings(**DRAWN))
    size = whole.circumstances["bytes_on_disk"]
    limit = size // 2
    ended = execute(tiny, tmp_path / "parts", settings(**DRAWN, max_disk_bytes=limit))
    assert ended.partial
    assert ended.reason.startswith("the folder may take")
    assert 0 < ended.new == len(ended.answers) < 27
    taken = ActivationStore(tmp_path / "parts").bytes_on_disk
    assert limit - size / 3 < taken <= limit
    assert results_in(tmp_path / "parts")["reason"] == ended.reason
    again = execute(tiny, tmp_path / "parts", settings(**DRAWN, max_disk_bytes=taken))
    assert (again.new, again.partial) == (0, True)
    assert not execute(tiny, tmp_path / "parts", settings(**DRAWN)).partial
    assert_same_answers(ActivationStore(tmp_path / "parts"), ActivationStore(tmp_path / "whole"))


def test_a_full_disk_keeps_what_was_written_and_the_run_goes_on_when_there_is_room(tiny, tmp_path):
    chosen = settings(**DRAWN, shard_bytes=60_000)
    execute(tiny, tmp_path / "whole", chosen)

    def fill(progress):
        if progress.done == 9:
            wait_for_a_commit(tmp_path / "full")
            full.enter_context(files_up_to(20_000))

    with pytest.raises(StorageError, match="cannot write .* File too large"), contextlib.ExitStack() as full:
        execute(tiny, tmp_path / "full", chosen, fill)
    kept = len(ActivationStore(tmp_path / "full"))
    assert 0 < kept < 27
    assert results_in(tmp_path / "full")["reason"].startswith("StorageError: cannot write")
    assert execute(tiny, tmp_path / "full", chosen).new == 27 - kept
    assert_same_answers(ActivationStore(tmp_path / "full"), ActivationStore(tmp_path / "whole"))


def wait_for_a_commit(folder):
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in (folder / "ledger").glob("*.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_disk_that_is_too_small_is_said_before_the_work(tiny, tmp_path, monkeypatch):
    run = BenchmarkRun(tiny, Toy(), tmp_path / "new", settings(capture=CaptureSettings()))
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: 20_000)
    with pytest.raises(
        StorageError, match=r"the activations of the prompts alone take .* kB, and 20\.0 kB are free on"
    ):
        run.execute()
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: 120_000)
    with pytest.warns(RuntimeWarning, match=r"as long as it may \(6 tokens\), this run needs .*120\.0 kB are free"):
        run.execute()


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_a_store_may_be_behind_a_url(place, tiny, tmp_path, request):
    url = f"memory://{tmp_path.name}" if place == "memory" else f"{request.getfixturevalue('s3_url')}/{tmp_path.name}"
    with pytest.raises(KeyboardInterrupt):
        execute(tiny, f"{url}/run", settings(**DRAWN), interrupt_at(7))
    resumed = execute(tiny, f"{url}/run", settings(**DRAWN))
    assert (resumed.new, len(resumed.answers)) == (20, 27)
    execute(tiny, tmp_path / "local", settings(**DRAWN))
    assert_same_answers(ActivationStore(f"{url}/run"), ActivationStore(tmp_path / "local"))
    assert json.loads(ActivationStore(f"{url}/run").folder.read("results.json"))["answers"]["done"] == 27
    assert execute(tiny, f"{url}/run", settings(limit=2), overwrite=True).new == 2
    assert len(ActivationStore(f"{url}/run")) == 2


def test_nothing_is_written_before_the_run_begins(tiny, tmp_path):
    BenchmarkRun(tiny, Toy(), tmp_path / "a" / "b", settings(capture=CaptureSettings()))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_found_before_the_model_runs(tiny, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        with pytest.raises(StorageError, match=str(folder)):
            BenchmarkRun(tiny, Toy(), folder, settings())


def test_smollm2_goes_on_with_the_very_answers_that_it_would_have_given(smollm2, tmp_path):
    chosen = RunSettings(
        limit=6,
        num_trials=2,
        generation=GenerationSettings(max_new_tokens=12, batch_size=4, temperature=0.8),
        capture=CaptureSettings(Selection(["embeddings", 10, -1])),
    )
    whole = BenchmarkRun(smollm2, General(), tmp_path / "whole", chosen).execute()
    with pytest.raises(KeyboardInterrupt):
        BenchmarkRun(smollm2, General(), tmp_path / "parts", chosen).execute(interrupt_at(6))
    resumed = BenchmarkRun(smollm2, General(), tmp_path / "parts", chosen).execute()
    assert (resumed.new, resumed.summary) == (6, whole.summary)
    assert_same_answers(ActivationStore(tmp_path / "parts"), ActivationStore(tmp_path / "whole"))
    assert ActivationStore(tmp_path / "parts").stack("layer_29", positions="last_prompt").shape == (12, 576)


def test_records_whose_question_or_trial_is_no_name_are_no_answers(tmp_path):
    with ActivationStore(tmp_path / "run") as store:
        for said in ({"question_id": [1]}, {"question_id": {"a": 1}}, {"trial": [0]}, {}):
            store.append(random_record(0, 3, **said))
    assert find_answers(store.ledger) == {("sums/0", 0): 3}
