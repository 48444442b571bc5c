"""The answers of a run, read from the ledger of its store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from actframe.runs.plan import Key
from actframe.runs.results import ANSWER_KEYS
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING

__all__ = ["LedgerAnswers", "find_answers", "graded_answers"]

GRADED_KEYS = (
    "question_id",
    "trial",
    "subject",
    "correct",
    "unparsed",
    "truncated",
    "chance",
    "output_tokens",
    "metrics",
)


class LedgerAnswers(Sequence[Mapping[str, Any]]):
    """Some answers, in an order of their own; each is read when it is looked at.

    Args:
        ledger: of the store.
        numbers: of the records.
    """

    def __init__(self, ledger: Ledger, numbers: Sequence[int]) -> None:
        self._ledger = ledger
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> LedgerAnswers: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | LedgerAnswers:
        if isinstance(index, slice):
            return LedgerAnswers(self._ledger, self._numbers[index])
        return _answer(self._ledger.entry(self._numbers[index]))

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return map(_answer, self._ledger.entries(self._numbers))

    def __repr__(self) -> str:
        return f"<{len(self)} answers in {self._ledger!r}>"


def find_answers(ledger: Ledger) -> dict[Key, int]:
    """The number of the record of each answer: of the first, where two processes gave the same one."""
    found: dict[Key, int] = {}
    if len(ledger):
        pairs = zip(ledger.column("question_id"), ledger.column("trial"), strict=True)
        for number, (question, trial) in enumerate(pairs):
            # What is a list or an object names no question.
            if not any(value is MISSING or isinstance(value, list | dict) for value in (question, trial)):
                found.setdefault((question, trial), number)
    return found


def graded_answers(ledger: Ledger, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """What statistics need of some answers."""
    columns = [ledger.column(key) for key in GRADED_KEYS] if numbers else []
    rows = ([column[number] for column in columns] for number in numbers)
    return [
        {key: None if value is MISSING else value for key, value in zip(GRADED_KEYS, row, strict=True)} for row in rows
    ]


def _answer(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ANSWER_KEYS if key in entry}
