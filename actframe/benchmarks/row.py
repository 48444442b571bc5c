"""One row of data, read column by column: what it holds, or an error that says where it stands and what it has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actframe.benchmarks.base import LETTERS
from actframe.errors import BenchmarkError

__all__ = ["Row", "lacking", "there"]

MOST_NAMES = 12


@dataclass(frozen=True)
class Row:
    """One row, and where it stands.

    Each method reads one column, and raises `BenchmarkError` where that holds something else. Lists and objects may
    also stand there as JSON text, as in a CSV file, and numbers as text.

    Attributes:
        values: its columns.
        place: for people: `questions.jsonl, line 3`.
        path: its file; None where it came from elsewhere.
    """

    values: Mapping[str, Any]
    place: str = "this question"
    path: Path | None = None

    def error(self, message: str) -> BenchmarkError:
        """What to raise about this row: the message after its place."""
        return BenchmarkError(f"{self.place}: {message}")

    def require(self, *columns: str) -> None:
        """Raises where one of the columns is not there."""
        if missing := [name for name in columns if name not in self.values]:
            raise lacking(self.place, missing, self.values)

    def text(self, column: str) -> str:
        """A text that is not empty, as it stands."""
        self.require(column)
        value = self.values[column]
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{column!r} should be a text that is not empty, not {value!r:.60}")
        return value

    def said(self, column: str) -> str | None:
        """A text or number as text, or None where there is none: what a question may do without."""
        value = self.values.get(column)
        return None if value is None or str(value).strip() == "" else str(value)

    def value(self, column: str) -> Any:
        """What a column holds, read as JSON where it is the text of a list or an object; None where it is not there."""
        value = self.values.get(column)
        if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
            try:
                return json.loads(value)
            except ValueError as error:
                raise self.error(f"{column!r} should be a list or an object as JSON, not {value!r:.80}") from error
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """A list of texts."""
        self.require(column)
        return self._texts(column, self.value(column))

    def labelled(self, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Texts and their labels: `{"text": [...], "label": [...]}`, or a list of `{"text": ..., "label": ...}`."""
        self.require(column)
        value = self.value(column)
        if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(e, Mapping) for e in value):
            value = {key: [each.get(key) for each in value] for key in ("text", "label")}
        if not isinstance(value, Mapping) or not {"text", "label"} <= value.keys():
            raise self.error(f"{column!r} should hold texts under 'text' and 'label', not {value!r:.80}")
        texts, labels = (self._texts(f"{column}.{key}", value[key]) for key in ("text", "label"))
        if len(texts) != len(labels):
            raise self.error(f"{column!r} has {len(texts)} texts and {len(labels)} labels")
        return texts, labels

    def object(self, column: str, *keys: str) -> Mapping[str, Any]:
        """An object that has these keys."""
        self.require(column)
        value = self.value(column)
        if not isinstance(value, Mapping) or not set(keys) <= value.keys():
            raise self.error(f"{column!r} should be an object with {', '.join(map(repr, keys))}, not {value!r:.80}")
        return value

    def letter(self, column: str, choices: int, first: int = 0) -> str:
        """The letter of a choice by its number, counted from `first`; empty where nothing is said.

        Args:
            column: holds the number.
            choices: how many there are.
            first: the number of the first choice.
        """
        self.require(column)
        if choices > len(LETTERS):
            raise self.error(f"{choices} choices; there should be 2 to {len(LETTERS)}")
        if (said := self.said(column)) is None:
            return ""
        number = int(said) - first if said.strip().lstrip("-").isdecimal() else -1
        if not 0 <= number < choices or isinstance(self.values[column], bool):
            raise self.error(
                f"{column!r} is {self.values[column]!r}; there are {choices} choices, {first} to {first + choices - 1}"
            )
        return LETTERS[number]

    def _texts(self, column: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(e, str) for e in value):
            raise self.error(f"{column!r} should be a list of texts, not {value!r:.80}")
        return tuple(value)


def lacking(place: str, missing: Sequence[str], present: Mapping[str, Any] | Sequence[str]) -> BenchmarkError:
    """What to raise where a row has not all columns that it needs."""
    names = f"column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"
    return BenchmarkError(f"{place} lacks the {names}; it has {', '.join(map(repr, present)) or 'none'}")


def there(names: Sequence[str]) -> str:
    """What there is instead, for the end of a message."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"; there: {', '.join(names[:MOST_NAMES]) or 'nothing'}{more}"
