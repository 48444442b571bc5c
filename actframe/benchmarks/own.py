"""Questions of the user's own: one that is asked, or a file of them; how they are put and read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from actframe.benchmarks.answers import extract_choice, extract_number
from actframe.benchmarks.base import LETTERS, BenchmarkAdapter, Question
from actframe.benchmarks.numerals import number_in
from actframe.benchmarks.published import check_question, content_id
from actframe.benchmarks.row import Row
from actframe.benchmarks.texts import extract_text, same_text
from actframe.errors import BenchmarkError

__all__ = ["Asked", "OwnQuestions", "as_question", "question_in"]

KNOWN = ("question", "choices", "answer", "subject", "id")
_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s+(\S.*?)\s*$", re.MULTILINE)


class OwnQuestions(BenchmarkAdapter):
    """Answers to questions of any kind: a letter where there are options, a number or words as the expected answer is.

    Options may stand in the question's text, each on a line of its own after its letter: `A. Lyon`. Without options
    and without an expected answer it is a number that is looked for.
    """

    def extract_answer(self, response: str, question: Question) -> str | None:
        options = question.choices or options_in(question.text)
        if options:
            return extract_choice(response, list(options), LETTERS[: len(options)])
        if not question.answer or number_in(question.answer) is not None:
            return extract_number(response)
        return extract_text(response)

    def score(self, answer: str | None, question: Question) -> bool:
        """Whether it is the expected letter or number, or the expected words but for case, articles, punctuation."""
        if answer is None or question.choices or number_in(question.answer) is not None:
            return answer == question.answer
        return same_text(answer, question.answer)


class Asked(OwnQuestions):
    """One question that somebody asks."""

    name: ClassVar[str] = "asked"

    def __init__(self, question: Question) -> None:
        self._question = question

    def questions(self) -> list[Question]:
        return [self._question]


def as_question(asked: str | Mapping[str, Any] | Question) -> Question:
    """The question that is meant.

    Args:
        asked: text alone, or a mapping as `question_in` reads it. Without an id it has one by its content.

    >>> as_question({"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}).answer
    'B'

    Raises:
        BenchmarkError: it is none of these, or the answer is not one of the choices.
    """
    if isinstance(asked, Question):
        return asked
    if isinstance(asked, str):
        asked = {"question": asked}
    if not isinstance(asked, Mapping):
        raise BenchmarkError(f"a question is a text, a dictionary or a Question, not {type(asked).__name__}")
    return question_in(Row(asked), Asked.name)


def question_in(row: Row, benchmark: str) -> Question:
    """The question that a row holds.

    It has `question`, and, where there are, `choices` (a list in the order of their letters; or columns `A`, `B`, ...),
    `answer` (a letter, the text or index of a choice; or a number, or words), `subject` and `id`. Other keys go to the
    metadata. Without an answer, `answer` of the question is empty.

    Args:
        row: what is read.
        benchmark: whose question it is: with it begins the id of one that has none of its own.

    Raises:
        BenchmarkError: it is not one.
    """
    lettered = _lettered(row)
    choices = lettered or _choices(row)
    question = Question(
        id=row.said("id") or "",
        text=row.text("question"),
        answer=_answer(row, choices),
        choices=choices,
        subject=row.said("subject"),
        metadata={
            key: json.loads(json.dumps(value, default=str))
            for key, value in row.values.items()
            if key not in KNOWN and not (lettered and key in tuple(LETTERS))
        },
    )
    check_question(question, row)
    return question if question.id else replace(question, id=content_id(benchmark, question))


def options_in(text: str) -> tuple[str, ...]:
    r"""The options that stand in a text under the letters A, B, ... in this order; empty where there are not two.

    >>> options_in("The capital?\nA. Lyon\nB. Paris")
    ('Lyon', 'Paris')
    """
    found: list[str] = []
    for letter, option in _OPTION.findall(text):
        if letter == "A":
            found = [option]
        elif found and letter == LETTERS[len(found)]:
            found.append(option)
    return tuple(found) if len(found) > 1 else ()


def _lettered(row: Row) -> tuple[str, ...]:
    """The choices of a table that has a column for each: up to the first letter that is not there or empty."""
    if "choices" in row.values or not {"A", "B"} <= row.values.keys():
        return ()
    found = [row.said(letter) for letter in LETTERS]
    return tuple(choice for choice in found[: found.index(None) if None in found else None] if choice is not None)


def _choices(row: Row) -> tuple[str, ...]:
    """No choices, or at least two that differ: of a repeated one, two letters would be right."""
    value = row.value("choices")
    if value is None or value in ("", []):
        return ()
    plain = isinstance(value, Sequence) and not isinstance(value, str)
    if not plain or not 2 <= len(value) <= len(LETTERS) or not all(isinstance(e, str | int | float) for e in value):
        raise row.error(f"'choices' is a list of 2 to {len(LETTERS)} options, not {value!r:.80}")
    choices = tuple(str(choice) for choice in value)
    if not all(choice.strip() for choice in choices):
        raise row.error(f"'choices' should be options that are not empty, not {value!r:.80}")
    if repeated := [choice for choice in choices if choices.count(choice) > 1]:
        raise row.error(f"the choice {repeated[0]!r} is given twice")
    return choices


def _answer(row: Row, choices: tuple[str, ...]) -> str:
    """The answer in the form that `OwnQuestions.extract_answer` returns; empty where there is none."""
    said = row.said("answer")
    if said is None:
        return ""
    text = said.strip()
    if not choices:
        number = number_in(text)
        return text if number is None else number
    letters, given = LETTERS[: len(choices)], row.values["answer"]
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(choices):
        return letters[given]
    if text in choices:
        return letters[choices.index(text)]
    if len(text) == 1 and text.upper() in letters:
        return text.upper()
    if isinstance(given, str) and text.isdecimal() and int(text) < len(choices):
        return letters[int(text)]
    raise row.error(f"the answer {given!r} is none of {', '.join(letters)}, nor one of the choices {choices}")
