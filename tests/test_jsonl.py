"""Questions of the user's own in a file: what becomes of each row, and what is refused."""

import csv
import json
import pickle

import pyarrow
import pytest
from pyarrow import parquet

from actframe.benchmarks.base import Question
from actframe.benchmarks.jsonl import OwnFile
from actframe.errors import BenchmarkError

ROWS = [
    {"question": "Largest planet?", "choices": ["Mars", "Jupiter", "None"], "answer": "B", "subject": "sky", "id": 7},
    {"question": "2 + 2?", "choices": ["3", "4"], "answer": "4"},
    {"question": "6 times 7?", "answer": 42},
    {"question": "Capital of France?", "answer": "Paris"},
    {"question": "Why?"},
]


def in_file(path, rows=ROWS):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return OwnFile(str(path))


def test_rows_become_questions(tmp_path):
    first, second, third, fourth, last = in_file(tmp_path / "q.jsonl").questions()
    assert first == Question("7", "Largest planet?", "B", ("Mars", "Jupiter", "None"), "sky")
    assert (second.answer, third.answer, fourth.answer, last.answer) == ("B", "42", "Paris", "")


def test_each_is_graded_by_what_its_answer_is(tmp_path):
    own = in_file(tmp_path / "q.jsonl")
    responses = ["The answer is (B).", "4", "So it is 42.", "the answer is paris", "Because."]
    verdicts = [own.judge(response, question) for response, question in zip(responses, own.questions(), strict=True)]
    assert [verdict.correct for verdict in verdicts] == [True, True, True, True, False]


def test_csv_and_parquet_hold_the_same_questions(tmp_path):
    rows = [row | {"id": str(number)} for number, row in enumerate(ROWS[:2])]
    expected = list(in_file(tmp_path / "q.jsonl", rows).questions())
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    assert list(OwnFile(str(tmp_path / "q.parquet")).questions()) == expected
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "question", "choices", "answer", "subject"])
        writer.writeheader()
        writer.writerows(row | {"choices": json.dumps(row["choices"])} for row in rows)
    assert list(OwnFile(str(tmp_path / "q.csv")).questions()) == expected


def test_an_id_comes_from_what_is_asked_and_not_from_where_it_stands(tmp_path):
    one, other = in_file(tmp_path / "a.jsonl", ROWS), in_file(tmp_path / "b.jsonl", ROWS[::-1])
    assert [q.id for q in one.questions()] == [q.id for q in other.questions()][::-1]
    assert one.questions()[1].id.startswith("jsonl/")


def test_examples_are_other_questions_with_answers(tmp_path):
    own = in_file(tmp_path / "q.jsonl")
    for question in own.questions():
        assert len(own.examples(question, 3)) == 3
        assert question not in own.examples(question, 3)
        assert all(example.answer for example in own.examples(question, 3))
    with pytest.raises(BenchmarkError, match=r"4 examples were asked for, and the split 'test' has 3 beside the"):
        own.examples(own.questions()[0], 4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "?"}], r"q\.jsonl, line 1 lacks the column 'question'; it has 'prompt'"),
        ([{"question": ""}], r"q\.jsonl, line 1: 'question' should be a text that is not empty"),
        ([ROWS[0], ROWS[0]], r"q\.jsonl, line 2: the id '7' is already that of .*q\.jsonl, line 1"),
        ([ROWS[4], ROWS[4]], r"q\.jsonl, line 2: the id 'jsonl/\w+' is already that of .*q\.jsonl, line 1"),
        ([ROWS[0] | {"answer": 3}], r"line 1: the answer 3 is none of A, B, C, nor one of the choices"),
        ([ROWS[0] | {"choices": {"A": "x"}}], r"line 1: 'choices' is a list of 2 to 26 options, not \{'A': 'x'\}"),
        ([], r"the split 'test' of '.*q\.jsonl' has no rows"),
    ],
)
def test_a_row_that_is_no_question_is_refused_with_its_line(tmp_path, rows, message):
    with pytest.raises(BenchmarkError, match=message):
        in_file(tmp_path / "q.jsonl", rows).questions()


def test_without_a_file_it_says_how_to_give_one():
    with pytest.raises(BenchmarkError, match=r"--benchmark jsonl --data PATH"):
        OwnFile()


def test_it_pickles_without_what_it_read(tmp_path):
    own = in_file(tmp_path / "q.jsonl", ROWS * 1)
    before = len(pickle.dumps(own))
    questions = list(own.questions())
    again = pickle.dumps(own)
    assert len(again) == before
    assert list(pickle.loads(again).questions()) == questions
