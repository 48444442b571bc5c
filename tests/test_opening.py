"""What a user names as a benchmark: installed ones, tasks of them, files."""

import json

import pytest

from actframe.benchmarks.base import BenchmarkOptions
from actframe.benchmarks.general import General
from actframe.benchmarks.jsonl import OwnFile
from actframe.benchmarks.opening import open_benchmark
from actframe.errors import BenchmarkError, UnknownNameError


@pytest.fixture
def questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "questions.jsonl"
    path.write_text(json.dumps({"question": "Up?", "choices": ["yes", "no"], "answer": "A"}))
    return path


def test_a_name_is_that_of_an_installed_benchmark():
    assert isinstance(open_benchmark("general"), General)


@pytest.mark.parametrize("name", ["mine/questions.jsonl", "./mine", "{absolute}"])
def test_a_path_is_questions_of_the_users_own(questions, name):
    opened = open_benchmark(name.format(absolute=questions), BenchmarkOptions(seed=3))
    assert isinstance(opened, OwnFile)
    assert [question.text for question in opened.questions()] == ["Up?"]
    assert opened.identity()["seed"] == 3


def test_a_benchmark_by_name_takes_its_data_from_the_options(questions):
    assert len(open_benchmark("jsonl", BenchmarkOptions(data=str(questions))).questions()) == 1


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(UnknownNameError, match=r"named 'generel' \(did you mean 'general'\?\); installed: "):
        open_benchmark("generel")
    with pytest.raises(UnknownNameError, match=r"no benchmark named 'no_such'"):
        open_benchmark("no_such:arc_easy")


def test_a_file_that_is_not_there_says_what_is(questions):
    with pytest.raises(BenchmarkError, match=r"no file or folder 'mine/question\.jsonl'; there: questions\.jsonl"):
        open_benchmark("mine/question.jsonl")


def test_a_file_and_data_are_one_too_many(questions):
    with pytest.raises(BenchmarkError, match=r"is a file of questions, so --data 'x' has no place"):
        open_benchmark("mine/questions.jsonl", BenchmarkOptions(data="x"))


def test_an_option_that_a_benchmark_does_not_have_is_refused():
    with pytest.raises(BenchmarkError, match="benchmark 'general' has no option 'data'"):
        open_benchmark("general", BenchmarkOptions(data="x"))
    with pytest.raises(BenchmarkError, match="benchmark 'general' has no option 'task'"):
        open_benchmark("general:hard")
