"""Questions from files: one JSON object on each line.

    {"id": "general/history/02", "question": "...", "choices": ["1918", "1945"], "answer": "B", "subject": "history"}

`id`, `question` and `answer` are required; `choices` and `subject` are optional; every other key goes to the
question's metadata.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from actframe.benchmarks.base import LETTERS, Question
from actframe.errors import BenchmarkError

__all__ = ["bundled_questions", "read_questions"]

KNOWN_KEYS = ("id", "question", "answer", "choices", "subject")


@functools.cache
def bundled_questions(file_name: str) -> tuple[Question, ...]:
    """The questions of a file that comes with actframe, in its order; read once for each process."""
    return tuple(read_questions(resources.files("actframe.benchmarks") / "bundled" / file_name))


def read_questions(source: Traversable) -> list[Question]:
    """The questions of a JSON lines file (a `Path` or a package resource), in its order. Empty lines are skipped.

    Raises:
        BenchmarkError: the file cannot be read, holds no question, repeats an id, or has a line that is not a
            question; the message names the file and the line.
    """
    questions: list[Question] = []
    line_of_id: dict[str, int] = {}
    for number, line in enumerate(_text(source).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            question = _question(_object(line))
            if question.id in line_of_id:
                raise BenchmarkError(f"id {question.id!r} is already taken by line {line_of_id[question.id]}")
        except BenchmarkError as error:
            raise BenchmarkError(f"{source}, line {number}: {error}") from error.__cause__
        line_of_id[question.id] = number
        questions.append(question)
    if not questions:
        raise BenchmarkError(f"{source} holds no question; each line should be one JSON object")
    return questions


def _text(source: Traversable) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{source} cannot be read as UTF-8 text: {error}") from error


def _object(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise BenchmarkError(f"not valid JSON: {error}") from error
    if not isinstance(entry, dict):
        raise BenchmarkError(f"a question is a JSON object with id, question and answer, not {entry!r:.60}")
    return entry


def _question(entry: Mapping[str, Any]) -> Question:
    question = Question(
        id=_string(entry, "id"),
        text=_string(entry, "question"),
        answer=_string(entry, "answer"),
        choices=_choices(entry.get("choices", [])),
        subject=_string(entry, "subject") if "subject" in entry else None,
        metadata={key: value for key, value in entry.items() if key not in KNOWN_KEYS},
    )
    if question.choices and question.answer not in tuple(question.letters):
        raise BenchmarkError(
            f"the answer {question.answer!r} is none of the {len(question.choices)} choices; "
            f"use one of the letters {', '.join(question.letters)}"
        )
    return question


def _string(entry: Mapping[str, Any], key: str) -> str:
    if key not in entry:
        raise BenchmarkError(f"{key!r} is missing; the line has {', '.join(map(repr, entry)) or 'no keys'}")
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise BenchmarkError(f"{key!r} should be a string that is not empty, not {value!r:.60}")
    return value


def _choices(value: object) -> tuple[str, ...]:
    """No choices, or between 2 and 26 that differ: a repeated one would make two letters right."""
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise BenchmarkError(f"'choices' should be a list of strings that are not empty, not {value!r:.60}")
    if value and not 2 <= len(value) <= len(LETTERS):
        raise BenchmarkError(f"{len(value)} choices; there should be 2 to {len(LETTERS)}")
    repeated = sorted({choice for choice in value if value.count(choice) > 1})
    if repeated:
        raise BenchmarkError(f"the choice {repeated[0]!r} is given twice")
    return tuple(value)
