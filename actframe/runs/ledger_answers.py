"""The answers of a run, read from the ledger of its store."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from actframe.runs.results import ANSWER_KEYS
from actframe.storage.keys import RecordKeys
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING

if TYPE_CHECKING:
    from actframe.runs.plan import Key

__all__ = [
    "AnswerGroup",
    "LedgerAnswers",
    "find_answers",
    "find_records",
    "graded_answer",
    "graded_answers",
    "group_answers",
]

GRADED_KEYS = (
    "question_id",
    "trial",
    "subject",
    "expected",
    "extracted_answer",
    "vote",
    "correct",
    "unparsed",
    "truncated",
    "chance",
    "metrics",
    "output_tokens",
)
"""What statistics need of an answer."""

ANSWER_PARTS = 2
"""The key of an answer has so many parts; that of a choice has one more."""


@dataclass(frozen=True)
class AnswerGroup:
    """The answers of one model in one run.

    Attributes:
        run: which of the runs that the store was merged from; 0 in others.
        model: its name; empty where records do not say it.
        numbers: of the records, in the order of the ledger.
        graded: what statistics need of each.
    """

    run: int
    model: str
    numbers: list[int] = field(default_factory=list)
    graded: list[dict[str, Any]] = field(default_factory=list)


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
    return {key: number for key, number in find_records(ledger).items() if len(key) == ANSWER_PARTS}


def find_records(ledger: Ledger) -> dict[Key, int]:
    """The same of each answer and of each choice that has a record of its own."""
    found: dict[Key, int] = {}
    if len(ledger):
        columns = map(ledger.column, ("question_id", "trial", "choice"))
        for number, (question, trial, choice) in enumerate(zip(*columns, strict=True)):
            if _names(question) and _names(trial):
                found.setdefault((question, trial, choice) if _names(choice) else (question, trial), number)
    return found


def graded_answers(ledger: Ledger, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """What statistics need of some answers."""
    columns = _columns(ledger, GRADED_KEYS) if numbers else {}
    return [graded_answer({key: column[number] for key, column in columns.items()}) for number in numbers]


def group_answers(ledger: Ledger, origin: Mapping[str, Any] | None = None) -> list[AnswerGroup]:
    """The answers of a store, of each question and trial the first, by run and model: records that say `correct`.

    Records of choices do not.

    Args:
        ledger: of the store.
        origin: what `run.json` says that the store was made from.
    """
    columns = _columns(ledger, (*RecordKeys.PARTS, *GRADED_KEYS)) if len(ledger) else {}
    if "correct" not in columns:
        return []
    keys = RecordKeys(origin)
    runs = [(keys.of(name, 0, 0, None) or (0,))[0] for name in ledger.shards]
    groups: dict[tuple[int, str], AnswerGroup] = {}
    seen = set()
    owners = ledger.shard_numbers.tolist()
    for number, (owner, *values) in enumerate(zip(owners, *columns.values(), strict=True)):
        said = dict(zip(columns, values, strict=True))
        if said["correct"] is MISSING:
            continue
        run, model = runs[owner], said.get("model")
        model = model if isinstance(model, str) else ""
        question, trial = (said.get(key, MISSING) for key in ("question_id", "trial"))
        key = (run, question, trial, model) if _names(question) and _names(trial) else number
        if key not in seen:
            seen.add(key)
            group = groups.setdefault((run, model), AnswerGroup(run, model))
            group.numbers.append(number)
            # What names no question is one of its own.
            group.graded.append({**graded_answer(said), **({} if _names(question) else {"question_id": number})})
    return list(groups.values())


def graded_answer(said: Mapping[str, Any]) -> dict[str, Any]:
    """What statistics need of an answer, of the kinds that they expect: records may say anything."""
    found = {key: None if said.get(key, MISSING) is MISSING else said[key] for key in GRADED_KEYS}
    subject, metrics, chance, tokens = (found[key] for key in ("subject", "metrics", "chance", "output_tokens"))
    return {
        **found,
        "subject": None if subject is None else str(subject),
        "correct": found["correct"] if _is_judged(found["correct"]) else None,
        "unparsed": bool(found["unparsed"]),
        "truncated": bool(found["truncated"]),
        "chance": chance if _is_number(chance) else None,
        "metrics": _metrics(metrics),
        "output_tokens": tokens if isinstance(tokens, int) else None,
    }


def _columns(ledger: Ledger, keys: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of those keys that records have."""
    known = set(ledger.keys())
    wanted = [key for key in dict.fromkeys(keys) if key in known]
    # Looked at more than once, and those of many different texts would be read again each time.
    return dict(zip(wanted, map(list, ledger.columns(wanted)), strict=True)) if wanted else {}


def _metrics(said: Any) -> dict[str, float] | None:
    if not isinstance(said, Mapping):
        return None
    return {str(name): value for name, value in said.items() if _is_number(value)} or None


def _is_judged(correct: Any) -> bool:
    return isinstance(correct, int | float) and 0 <= correct <= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _names(value: Any) -> bool:
    """Whether a value can be the id of a question or the number of a trial."""
    return value is not MISSING and not isinstance(value, list | dict)


def _answer(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ANSWER_KEYS if key in entry}
