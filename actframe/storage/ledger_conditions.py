"""What a condition on records is given, and what it may compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from actframe.errors import SelectionError, StorageError
from actframe.records.packing import json_safe
from actframe.storage.ledger_lines import MISSING

__all__ = ["Entry", "Looked", "comparable"]

Take = Callable[[Sequence[str]], list[Sequence[Any]]]


class Looked(dict[str, Sequence[Any]]):
    """What some records say under the keys that were looked up so far, by key.

    Args:
        take: gives the columns of these records for some keys.
        keys: those to begin with: together they are read faster than one by one.
    """

    def __init__(self, take: Take, keys: Sequence[str]) -> None:
        super().__init__(zip(keys, take(keys), strict=True))
        self._take = take

    def __missing__(self, key: str) -> Sequence[Any]:
        (self[key],) = self._take([key])
        return self[key]


class Entry(Mapping[str, Any]):
    """What one record says, read when it is looked up."""

    __slots__ = ("_columns", "_read", "_row", "number")

    def __init__(self, columns: Looked, row: int, number: int, read: Callable[[int], dict[str, Any]]) -> None:
        self._columns = columns
        self._row = row
        self._read = read
        self.number = number

    def __getitem__(self, key: str) -> Any:
        value = self._columns[key][self._row]
        if value is MISSING:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._read(self.number))

    def __len__(self) -> int:
        return len(self._read(self.number))

    def __repr__(self) -> str:
        return f"<entry {self._read(self.number)}>"


def comparable(key: str, value: Any) -> Any:
    """A value as the ledger would hold it."""
    if value is MISSING:
        return value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    try:
        return json_safe({key: value})[key]
    except StorageError as error:
        raise SelectionError(
            f"no record says that {key} is {value!r:.80}, of type {type(value).__qualname__}: a ledger holds what JSON "
            f"can; for anything but equality give a function, such as lambda entry: entry[{key!r}] in ('A', 'B')"
        ) from error
