"""Columns of a ledger: what every record says under one key, remembered as far as memory allows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy

from actframe.storage.ledger_files import Array, Lines
from actframe.storage.ledger_lines import Projection

__all__ = ["Columns"]

# Beyond this the columns that were asked for least recently are forgotten.
_REMEMBERED_BYTES = 256 << 20
# Columns with more different strings than this are not like a subject or a model, but like a prompt.
_SHARED_STRINGS = 65_536
_NUMBER_BYTES = 28
_POINTER_BYTES = 8
_PIECE = 4096
# Reading one line alone takes as long as reading so many beside each other.
_ALONE = 20


class Columns:
    """The columns of the lines at some places, of which there may be more later.

    Columns of numbers and short texts are remembered. Lists, objects and what would take too much memory are read
    again each time.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._places: Array = numpy.empty(0)
        self._remembered: dict[str, _Column] = {}
        self._large: set[str] = set()

    def extend(self, places: Array) -> None:
        """Go on with these places, of which the first are those that there were."""
        self._places = places

    def get(self, keys: Sequence[str]) -> list[Sequence[Any]]:
        """The column of each key. Those that are remembered are not to be changed; they grow with the ledger."""
        behind: dict[int, list[str]] = {}
        for key in dict.fromkeys(keys):
            column = self._remembered.pop(key, None) or _Column()
            if key not in self._large:
                # At the end is what was asked for last.
                self._remembered[key] = column
                if len(column.values) < len(self._places):
                    behind.setdefault(len(column.values), []).append(key)
        for start, late in behind.items():
            self._read(late, start)
        self._forget(len(set(keys)))
        return [
            self._remembered[key].values if key in self._remembered else _Unremembered(self._lines, self._places, key)
            for key in keys
        ]

    def are_few(self, count: int) -> bool:
        """Whether so many records are read faster alone than with all others."""
        return count * _ALONE < len(self._places)

    def take(self, keys: Sequence[str], numbers: Array, alone: bool) -> list[Sequence[Any]]:
        """For each key what the records of these numbers say; `alone`, without remembering what others say."""
        if len(numbers) == len(self._places) and (numbers == numpy.arange(len(numbers))).all():
            return self.get(keys)
        absent = [key for key in keys if len(self._remembered.get(key, _NOTHING).values) < len(self._places)]
        read = [key for key in absent if alone or key in self._large]
        found = dict(zip(read, _values(self._lines, self._places[numbers], read), strict=True)) if read else {}
        rest = [key for key in keys if key not in found]
        wanted = numbers.tolist()
        found |= {key: [column[number] for number in wanted] for key, column in zip(rest, self.get(rest), strict=True)}
        return [found[key] for key in keys]

    def _read(self, keys: list[str], start: int) -> None:
        """Read the rest of some columns, which are all as long."""
        reading = {key: self._remembered[key] for key in keys}
        for text, count in self._lines.texts(self._places[start:]):
            found = Projection(list(reading)).columns(text, count)
            for (key, column), values in zip(list(reading.items()), found, strict=True):
                if not column.extend(values):
                    self._large.add(key)
                    del reading[key], self._remembered[key]
            if not reading:
                return

    def _forget(self, in_use: int) -> None:
        """Make room, but for the columns that were asked for last."""
        total = sum(column.bytes for column in self._remembered.values())
        for key in list(self._remembered)[: max(0, len(self._remembered) - in_use)]:
            if total <= _REMEMBERED_BYTES:
                break
            total -= self._remembered.pop(key).bytes


class _Column:
    """Values that are remembered; equal strings are one and the same."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.bytes = 0
        self._strings: dict[str, str] = {}

    def extend(self, values: list[Any]) -> bool:
        """Add more values; False if they are not to be remembered."""
        kinds = set(map(type, values))
        if list in kinds or dict in kinds:
            return False
        self.bytes += _POINTER_BYTES * len(values)
        if not kinds.isdisjoint((int, float)):
            self.bytes += _NUMBER_BYTES * len(values)
        if str in kinds:
            values = self._share(values)
        self.values += values
        return self.bytes <= _REMEMBERED_BYTES

    def _share(self, values: list[Any]) -> list[Any]:
        before = len(self._strings)
        if before >= _SHARED_STRINGS:
            self.bytes += sum(map(sys.getsizeof, values))
            return values
        share = self._strings.setdefault
        values = [share(value, value) if type(value) is str else value for value in values]
        self.bytes += sum(map(sys.getsizeof, islice(self._strings, before, None)))
        return values


_NOTHING = _Column()


class _Unremembered(Sequence[Any]):
    """A column that is read when it is looked at, a piece at a time."""

    def __init__(self, lines: Lines, places: Array, key: str) -> None:
        self._lines = lines
        self._places = places
        self._key = key
        self._piece = -1
        self._values: list[Any] = []

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Any]:
        for text, count in self._lines.texts(self._places):
            yield from Projection([self._key]).columns(text, count)[0]

    @overload
    def __getitem__(self, number: int) -> Any: ...

    @overload
    def __getitem__(self, number: slice) -> list[Any]: ...

    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return _values(self._lines, self._places[number], [self._key])[0]
        number = range(len(self))[number]
        piece = number // _PIECE
        if piece != self._piece:
            places = self._places[piece * _PIECE : (piece + 1) * _PIECE]
            self._values, self._piece = _values(self._lines, places, [self._key])[0], piece
        return self._values[number % _PIECE]


def _values(lines: Lines, places: Array, keys: Iterable[str]) -> list[list[Any]]:
    """The columns of the lines at some places alone."""
    projection = Projection(list(keys))
    columns: list[list[Any]] = [[] for _ in keys]
    for text, count in lines.texts(places):
        for column, values in zip(columns, projection.columns(text, count), strict=True):
            column.extend(values)
    return columns
