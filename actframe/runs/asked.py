"""A question of the user's own: text, dictionary or `Question`, and how it is put and read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from actframe.benchmarks.answers import extract_choice, extract_number
from actframe.benchmarks.base import LETTERS, BenchmarkAdapter, Question
from actframe.errors import BenchmarkError

__all__ = ["Asked", "as_question"]

_OPTION = re.compile(r"^\s*\(?([A-Z])[.):]\s+(\S.*?)\s*$", re.MULTILINE)


class Asked(BenchmarkAdapter):
    """One question that somebody asks: a letter where there are options, else a number.

    Options may stand in the question's text, each on a line of its own after its letter: `A. Lyon`.
    """

    name: ClassVar[str] = "asked"

    def __init__(self, question: Question) -> None:
        self._question = question

    def questions(self) -> list[Question]:
        return [self._question]

    def extract_answer(self, response: str, question: Question) -> str | None:
        options = question.choices or options_in(question.text)
        if options:
            return extract_choice(response, list(options), LETTERS[: len(options)])
        return extract_number(response)


def as_question(asked: str | Mapping[str, Any] | Question) -> Question:
    """The question that is meant.

    Args:
        asked: text alone; or a mapping with `question`, and, where there are, `choices` (in the order of their
            letters), `answer` (a letter, the index or text of a choice, or a number), `subject` and `id`. Other
            keys go to the metadata. Without an answer, `answer` of the question is empty.

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
    text = asked.get("question")
    if not isinstance(text, str):
        raise BenchmarkError(f"a question's dictionary has its text under 'question'; this one has {sorted(asked)}")
    choices = _choices(asked.get("choices"))
    known = ("question", "choices", "answer", "subject", "id")
    return Question(
        # The same text has the same id in every process, so that its records can be joined.
        id=str(asked.get("id") or f"asked/{hashlib.sha256(text.encode()).hexdigest()[:12]}"),
        text=text,
        answer=_answer(asked.get("answer"), choices),
        choices=choices,
        subject=asked.get("subject"),
        metadata={key: value for key, value in asked.items() if key not in known},
    )


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


def _choices(choices: Any) -> tuple[str, ...]:
    if choices is None:
        return ()
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not 2 <= len(choices) <= len(LETTERS):
        raise BenchmarkError(f"'choices' is a list of 2 to {len(LETTERS)} options, not {choices!r:.80}")
    return tuple(str(choice) for choice in choices)


def _answer(answer: Any, choices: tuple[str, ...]) -> str:
    """The answer in the form that `Asked.extract_answer` returns; empty where there is none."""
    if answer is None:
        return ""
    letters = LETTERS[: len(choices)]
    if not choices:
        return extract_number(str(answer)) or str(answer).strip()
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return letters[answer]
    text = str(answer).strip()
    if text in choices:
        return letters[choices.index(text)]
    if len(text) == 1 and text.upper() in letters:
        return text.upper()
    raise BenchmarkError(f"the answer {answer!r} is none of {', '.join(letters)}, nor one of the choices {choices}")
