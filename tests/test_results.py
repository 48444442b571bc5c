"""The files that a run leaves: whole lines, results in one step, earlier ones kept."""

import json
import os
import resource
from contextlib import contextmanager

import pytest

from actframe.errors import StorageError
from actframe.runs.results import AnswerLog, RunResult, set_aside_earlier, write_results

ANSWERS = [
    {"question_id": "a", "correct": True, "subject": "art", "response": "Größe 日本\nzwei"},
    {"question_id": "b", "correct": False, "subject": "law", "response": ""},
]


@contextmanager
def files_up_to(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_each_line_is_on_its_way_before_the_next_answer(tmp_path):
    log = AnswerLog(tmp_path)
    for count, answer in enumerate(ANSWERS, start=1):
        log.append(answer)
        lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").split("\n")
        assert [json.loads(line) for line in lines[:-1]] == ANSWERS[:count]
        assert lines[-1] == ""
    log.sync()
    log.close()


def test_a_line_that_the_disk_has_no_room_for_leaves_no_part_of_itself(tmp_path):
    log = AnswerLog(tmp_path)
    log.append(ANSWERS[0])
    size = (tmp_path / "answers.jsonl").stat().st_size
    with files_up_to(size + 10), pytest.raises(StorageError, match=r"cannot write .*answers\.jsonl: File too large"):
        log.append(ANSWERS[1])
    assert (tmp_path / "answers.jsonl").stat().st_size == size
    log.append(ANSWERS[1])
    log.close()
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ANSWERS


def test_a_log_never_continues_another(tmp_path):
    AnswerLog(tmp_path).close()
    with pytest.raises(StorageError, match=r"answers\.jsonl: File exists"):
        AnswerLog(tmp_path)


def test_results_hold_the_summary_and_each_subject(tmp_path):
    path = write_results(RunResult({"model": "tiny"}, ANSWERS), tmp_path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert (written["format"], written["model"], written["partial"]) == ("results/2", "tiny", False)
    assert written["summary"]["accuracy"] == 0.5
    assert {subject: each["accuracy"] for subject, each in written["by_subject"].items()} == {"art": 1.0, "law": 0.0}


def test_results_of_a_run_without_answers_have_no_summary(tmp_path):
    result = RunResult({}, [], partial=True, reason="interrupted")
    written = json.loads(write_results(result, tmp_path).read_text())
    assert (written["summary"], written["by_subject"], written["reason"]) == (None, {}, "interrupted")


def test_results_that_cannot_be_written_leave_the_old_ones(tmp_path):
    write_results(RunResult({"model": "old"}, ANSWERS), tmp_path)
    with files_up_to(100), pytest.raises(StorageError, match=r"cannot write .*results\.json: File too large"):
        write_results(RunResult({"model": "new"}, ANSWERS), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["model"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_earlier_files_are_renamed_by_their_time(tmp_path):
    for name in ("answers.jsonl", "results.json", "other.txt"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (0, 1_700_000_000.25))
    set_aside_earlier(tmp_path)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(kept.values()) == ["answers.jsonl", "other.txt", "results.json"]
    (answers,) = [name for name in kept if name.startswith("answers.2023111") and name.endswith("_250000.jsonl")]
    assert kept[answers] == "answers.jsonl"
    set_aside_earlier(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_earlier_file_is_never_replaced_by_another(tmp_path):
    for _ in range(2):
        (tmp_path / "results.json").write_text("x")
        os.utime(tmp_path / "results.json", (0, 1_700_000_000))
        if not list(tmp_path.glob("results.*_*.json")):
            set_aside_earlier(tmp_path)
    with pytest.raises(StorageError, match=r"is there already; move it or results\.json away"):
        set_aside_earlier(tmp_path)
