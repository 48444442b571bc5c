"""Questions from files: what is read, and what is refused with the file and the line."""

import json

import pytest

from actframe.benchmarks.base import Question
from actframe.benchmarks.sources import bundled_questions, read_questions
from actframe.errors import BenchmarkError

GOOD = {"id": "t/1", "question": "Up?", "choices": ["yes", "no"], "answer": "A"}


@pytest.fixture
def source(tmp_path):
    """Writes entries (or lines as they are) to a file of questions."""

    def write(*entries):
        path = tmp_path / "questions.jsonl"
        path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries), encoding="utf-8")
        return path

    return write


def test_known_keys_become_attributes_and_the_rest_metadata(source):
    path = source(GOOD | {"subject": "s", "difficulty": "easy"}, "", {"id": "t/2", "question": "1 + 1?", "answer": "2"})
    assert read_questions(path) == [
        Question("t/1", "Up?", "A", ("yes", "no"), "s", {"difficulty": "easy"}),
        Question("t/2", "1 + 1?", "2"),
    ]


def test_a_line_separator_inside_a_question_ends_no_line(source):
    path = source(json.dumps(GOOD | {"question": "Up\u2028or down?"}, ensure_ascii=False))
    assert read_questions(path)[0].text == "Up\u2028or down?"


def test_bundled_files_are_read_once():
    assert bundled_questions("general.jsonl") is bundled_questions("general.jsonl")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"not valid JSON"),
        ("[1]", r"a question is a JSON object with id, question and answer, not \[1\]"),
        ({"id": "t/2", "question": "Up?"}, r"'answer' is missing; the line has 'id', 'question'"),
        ("{}", r"'id' is missing; the line has no keys"),
        (GOOD | {"id": 2}, r"'id' should be a string that is not empty, not 2"),
        (GOOD | {"id": "t/2", "question": " "}, r"'question' should be a string that is not empty"),
        (GOOD | {"id": "t/2", "answer": "C"}, r"the answer 'C' is none of the 2 choices; use one of the letters A, B"),
        (GOOD | {"id": "t/2", "answer": "AB"}, r"the answer 'AB' is none of the 2 choices"),
        (GOOD | {"id": "t/2", "choices": ["yes"]}, r"1 choices; there should be 2 to 26"),
        (GOOD | {"id": "t/2", "choices": [str(n) for n in range(27)]}, r"27 choices; there should be 2 to 26"),
        (GOOD | {"id": "t/2", "choices": ["yes", "yes"]}, r"the choice 'yes' is given twice"),
        (GOOD | {"id": "t/2", "choices": "yes"}, r"'choices' should be a list of strings"),
        (GOOD | {"id": "t/2", "choices": ["yes", ""]}, r"'choices' should be a list of strings that are not empty"),
        (GOOD, r"id 't/1' is already taken by line 1"),
    ],
)
def test_a_line_that_is_no_question_is_named(source, bad, message):
    with pytest.raises(BenchmarkError, match=rf"questions\.jsonl, line 3: {message}"):
        read_questions(source(GOOD, "", bad))


def test_a_file_without_questions_is_refused(source):
    with pytest.raises(BenchmarkError, match=r"questions\.jsonl holds no question"):
        read_questions(source("", ""))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BenchmarkError, match=r"missing\.jsonl cannot be read as UTF-8 text: .*No such file"):
        read_questions(tmp_path / "missing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    with pytest.raises(BenchmarkError, match=r"latin\.jsonl cannot be read as UTF-8 text"):
        read_questions(tmp_path / "latin.jsonl")
