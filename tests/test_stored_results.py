"""Results read from where runs are: the same that the run wrote, at any moment, without a tensor."""

import json
import shutil
import subprocess
import sys

import pytest
from toys import Toy, settings

from actframe import ActivationStore
from actframe.errors import BenchmarkError, FormatError, StorageError
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun
from actframe.runs.stored_results import compare_results, read_results
from actframe.storage.merging import merge_stores
from actframe.testing import random_record

RUN = {"model": {"name": "tiny"}, "benchmark": {"name": "sums", "questions": 12}, "num_trials": 1}


def fill(path, numbers=range(12), run=RUN, **said):
    with ActivationStore(path, run=run) as store:
        for number in numbers:
            store.append(random_record(number, 2, **said))
    return path


def execute(tiny, folder, **chosen):
    return BenchmarkRun(tiny, Toy(), folder, settings(num_trials=2, temperature=1.0, **chosen)).execute()


class AllTheSame(Toy):
    """Whatever is answered is right or the one wrong answer that there is."""

    def vote(self, answer, question):
        return "wrong"


@pytest.mark.parametrize("layout", ["store", "files"])
def test_votes_are_counted_as_the_benchmark_says_also_when_they_are_read_again(tiny, tmp_path, layout):
    chosen = settings(num_trials=4, temperature=1.0, layout=layout)
    by_themselves = BenchmarkRun(tiny, Toy(), tmp_path / "toy", chosen).execute().summary
    together = BenchmarkRun(tiny, AllTheSame(), tmp_path / "same", chosen).execute().summary
    (read,) = read_results(tmp_path / "same")
    assert read.result.summary == together
    assert together.accuracy == by_themselves.accuracy
    assert together.agreement > by_themselves.agreement


@pytest.mark.parametrize("layout", ["store", "files"])
def test_results_of_a_run_are_those_that_it_wrote(tiny, tmp_path, layout):
    ended = execute(tiny, tmp_path, layout=layout)
    (read,) = read_results(tmp_path)
    assert (read.model, read.benchmark, read.location) == ("tiny", "toy", str(tmp_path))
    assert json.loads(json.dumps(read.result.as_json())) == json.loads((tmp_path / "results.json").read_text())
    key = "question_id", "trial"
    by_key = [{tuple(answer[part] for part in key): answer for answer in each.result.answers} for each in (read,)]
    assert by_key == [{tuple(answer[part] for part in key): answer for answer in ended.answers}]
    assert (read.result.summary, read.result.by_subject) == (ended.summary, ended.by_subject)


def test_activations_are_never_looked_at(tmp_path):
    (before,) = read_results(fill(tmp_path / "run"))
    for shard in (tmp_path / "run" / "shards").iterdir():
        shard.write_bytes(b"nothing that could be read")
    (after,) = read_results(tmp_path / "run")
    assert after.result.summary == before.result.summary
    assert after.result.summary.accuracy == 4 / 12


def test_reading_results_needs_no_torch(tmp_path):
    fill(tmp_path / "run")
    code = (
        "import sys; from actframe.runs.stored_results import read_results; "
        "print(read_results(sys.argv[1])[0].result.summary.questions, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["12", "False"]


@pytest.mark.parametrize("layout", ["store", "files"])
def test_results_are_read_while_the_run_goes_on(tiny, tmp_path, layout):
    seen = []

    def look(progress):
        if progress.done >= 5 and not seen:
            run.layout.flush()
            seen.extend(read_results(tmp_path))

    run = BenchmarkRun(tiny, Toy(), tmp_path, settings(capture=CaptureSettings(), layout=layout))
    run.execute(look)
    (read,) = seen
    assert (read.result.partial, read.result.summary.questions) == (True, 5)
    assert "it is still running" in read.result.reason
    assert read.result.circumstances["answers"] == {"done": 5, "total": 9 if layout == "store" else None}


def test_a_run_that_was_interrupted_says_what_is_missing_and_why(tiny, tmp_path):
    def interrupt(progress):
        if progress.done == 13:
            raise KeyboardInterrupt

    run = BenchmarkRun(tiny, Toy(), tmp_path, settings(num_trials=2, temperature=1.0))
    with pytest.raises(KeyboardInterrupt):
        run.execute(interrupt)
    (read,) = read_results(tmp_path)
    done = read.result.circumstances["answers"]["done"]
    assert 9 < done < 18
    assert (read.result.partial, read.result.reason) == (True, "interrupted")
    summary = read.result.summary
    assert (summary.answers, summary.trials) == (done, 2)
    assert summary.complete == done - summary.questions
    (tmp_path / "results.json").unlink()
    (without,) = read_results(tmp_path)
    assert (without.result.partial, without.result.reason) == (True, None)
    assert (without.model, without.benchmark, without.result.summary) == ("tiny", "toy", summary)


def test_stores_behind_urls_are_read(tmp_path):
    url = f"memory://{tmp_path.name}"
    fill(f"{url}/run")
    (read,) = read_results(f"{url}/run")
    assert (read.location, read.result.summary.questions) == (f"{url}/run", 12)


def test_runs_that_were_merged_are_kept_apart(tmp_path):
    other = {**RUN, "model": {"name": "other"}}
    parts = [fill(tmp_path / "a"), fill(tmp_path / "b", run=other, model="other", correct=True)]
    merge_stores(parts, tmp_path / "all")
    first, second = read_results(tmp_path / "all")
    assert [each.model for each in (first, second)] == ["tiny", "other"]
    assert [each.result.summary.accuracy for each in (first, second)] == [4 / 12, 1.0]
    assert [each.result.summary.questions for each in (first, second)] == [12, 12]
    assert compare_results(first, second).discordant.only_second == 8


def test_parts_of_one_run_that_were_merged_are_one_run(tmp_path):
    parts = [fill(tmp_path / "a", range(5)), fill(tmp_path / "b", range(5, 12))]
    merge_stores(parts, tmp_path / "all")
    (read,) = read_results(tmp_path / "all")
    assert read.result.summary.questions == 12


def test_answers_to_questions_without_an_answer_have_no_summary(tmp_path):
    (read,) = read_results(fill(tmp_path / "run", correct=None))
    assert (read.result.summary, read.result.by_subject, len(read.result.answers)) == (None, {}, 12)
    with pytest.raises(BenchmarkError, match="the first has no answers that were judged"):
        compare_results(read, read)


def test_different_benchmarks_are_not_compared(tmp_path):
    other = {**RUN, "benchmark": {"name": "products", "questions": 12}}
    runs = read_results(fill(tmp_path / "a"), fill(tmp_path / "b", run=other))
    with pytest.raises(BenchmarkError, match=r"a answers sums and .*b answers products: .* are not compared"):
        compare_results(*runs)


def test_a_line_that_is_being_written_is_left_out(tiny, tmp_path):
    execute(tiny, tmp_path, layout="files")
    (tmp_path / "results.json").unlink()
    lines = (tmp_path / "answers.jsonl").read_bytes()
    (tmp_path / "answers.jsonl").write_bytes(lines[:-10])
    (read,) = read_results(tmp_path)
    assert (read.result.summary.answers, read.model, read.result.partial) == (17, None, True)


@pytest.mark.parametrize("line", [b"[]", b'{"question_id": "a", "trial": 0}', b"{", b'{"correct": true}', b"\xff"])
def test_a_damaged_line_of_answers_is_named(tmp_path, line):
    (tmp_path / "answers.jsonl").write_bytes(b'{"question_id": 1, "trial": 0, "correct": true}\n' + line + b"\n")
    with pytest.raises(FormatError, match="line 2 of .*answers.jsonl is no answer"):
        read_results(tmp_path)


def test_a_damaged_ledger_is_said(tmp_path):
    fill(tmp_path / "run")
    (ledger,) = (tmp_path / "run" / "ledger").iterdir()
    ledger.write_bytes(ledger.read_bytes().replace(b"{", b"[", 1))
    with pytest.warns(RuntimeWarning, match="was not read whole .1 damaged line"):
        (read,) = read_results(tmp_path / "run")
    assert read.result.summary.questions == 11


def test_what_has_no_answers_is_refused(tmp_path):
    with pytest.raises(StorageError, match="nothing is there"):
        read_results(tmp_path / "nope")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"neither a store nor answers\.jsonl is there"):
        read_results(tmp_path / "folder")
    (tmp_path / "folder" / "answers.jsonl").touch()
    with pytest.raises(StorageError, match="has no answers yet"):
        read_results(tmp_path / "folder")
    with ActivationStore(tmp_path / "texts") as store:
        record = dict(random_record(0))
        store.append(type(random_record(0))({key: value for key, value in record.items() if key != "correct"}))
    with pytest.raises(StorageError, match="none of its 1 records says whether it is right"):
        read_results(tmp_path / "texts")
    shutil.rmtree(tmp_path / "texts" / "ledger")
    shutil.rmtree(tmp_path / "texts" / "shards")
    with pytest.raises(StorageError, match="it has no record"):
        read_results(tmp_path / "texts")
