"""Ledger: what the records of a store say, without their tensors."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from actframe.errors import FormatError, StorageError, UnknownNameError, nearest
from actframe.storage.ledger_columns import Columns
from actframe.storage.ledger_conditions import Entry, Looked, comparable
from actframe.storage.ledger_files import PLACE, Array, LedgerFile, Lines, ReadAgainError, ShardFacts, Shards
from actframe.storage.ledger_lines import MISSING, STORED, decode_lines
from actframe.storage.store_folder import StoreFolder

__all__ = ["MISSING", "Ledger", "LedgerProblems", "ShardFacts"]

_BATCH = 1024
# With so many records a `Mapping` is asked first which keys a condition looks at.
_TRIED = 16
# Of this many records at a time it is given what they say.
_PIECE = 65_536
# How many lines are looked at to say which keys there are.
_SAMPLED = 1000


@dataclass(frozen=True)
class LedgerProblems:
    """What of a ledger was left out when it was read.

    Attributes:
        torn: files that end without a newline, and at which byte the torn line begins. A writer that is at work may
            be about to finish it.
        damaged: file, number of the line (from 1), and what is wrong with it.
        missing: shards that lines name and that are not there, and how many records these are.
        duplicates: how many lines were of records that an earlier line had named.
    """

    torn: list[tuple[str, int]] = field(default_factory=list)
    damaged: list[tuple[str, int, str]] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0

    def __bool__(self) -> bool:
        return bool(self.torn or self.damaged or self.missing or self.duplicates)

    def __str__(self) -> str:
        lost = sum(self.missing.values())
        counts = {
            _count(len(self.torn), "torn line"): self.torn,
            _count(len(self.damaged), "damaged line"): self.damaged,
            f"{_count(lost, 'record')} of {_count(len(self.missing), 'missing shard')}": self.missing,
            _count(self.duplicates, "repeated line"): self.duplicates,
        }
        return ", ".join(text for text, found in counts.items() if found) or "no problems"


class Ledger:
    """The committed records of a store, as its ledger files say, and numbered from 0.

    A ledger that is read for the first time is in the order of its files' names, then of their lines. What a later
    `refresh` finds comes after what there was, whoever wrote it, so that numbers keep their meaning. Only where a file
    or a shard is gone or was replaced is everything read anew, and `generation` says so.

    Lines whose shard is not there count as soon as it is. Nothing but arrays of places and the columns that were asked
    for stays in memory.

    Attributes:
        generation: how many times the records were numbered anew.
        shards: the names of the shards that have records, in the folder `shards`.
        shard_numbers: for each record, which of `shards` it is in.
        indexes: for each record, which of the shard's records it is.
    """

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self.generation = 0
        self.shards: list[str] = []
        self._named = Shards()
        self._files: dict[str, LedgerFile] = {}
        self._file_names: list[str] = []
        self._lines = Lines(folder, self._file_names)
        self._columns = Columns(self._lines)
        # Sound lines whose shard is not there.
        self._held = numpy.empty(0, PLACE)
        self._duplicates = 0
        self._number(numpy.empty(0, PLACE))

    def refresh(self) -> None:
        """Read what is new.

        Raises:
            StorageError: a file cannot be read. What was read before stays.
        """
        ledger = self
        for _ in range(3):
            with contextlib.suppress(ReadAgainError):
                ledger._read_on()
                if ledger is not self:
                    vars(self).update(vars(ledger), generation=self.generation + 1)
                return
            ledger = Ledger(self._folder)
        raise StorageError(
            f"{self._folder.location}: the files of the ledger are replaced while they are read; "
            f"wait until the program that repairs or rewrites the store has ended"
        )

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<Ledger {self._folder.location!r}, {len(self)} records>"

    def facts(self, shard: str) -> ShardFacts:
        """What the ledger says of a shard; KeyError where it says nothing."""
        return self._named.facts_of(shard)

    def entry(self, number: int) -> dict[str, Any]:
        """What one record says.

        Raises:
            IndexError: there is no record of this number.
        """
        number = operator.index(number)
        if not 0 <= number < len(self):
            raise IndexError(f"{self._folder.location} has the records 0 to {len(self) - 1}, and no {number}")
        return next(self.entries([number]))

    def entries(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """What records say, in the order of the numbers; without numbers, all of them."""
        places = self._places
        wanted = self._numbers(numbers)
        for start in range(0, len(wanted), _BATCH):
            batch = places[wanted[start : start + _BATCH]]
            # Files are read forward, whatever the order of the numbers.
            order = numpy.lexsort((batch["start"], batch["file"]))
            found: list[dict[str, Any]] = []
            with self._reading():
                for text, count in self._lines.texts(batch[order]):
                    found += decode_lines(text, count)
            for position in numpy.argsort(order).tolist():
                found[position].pop(STORED, None)
                yield found[position]

    def column(self, key: str) -> Sequence[Any]:
        """What every record says under one key, or `MISSING`. It is remembered, and not to be changed.

        The values of a list or an object, or long texts of very many records, are not remembered, but read again each
        time they are looked at.
        """
        with self._reading():
            return self._columns.get([key])[0]

    def columns(self, keys: Sequence[str], numbers: Iterable[int] | None = None) -> list[Sequence[Any]]:
        """As `column`, for several keys at once; of all records, or of those numbered, in that order.

        Where few records of many are asked for, the others are not read.

        Raises:
            UnknownNameError: no record at all has one of the keys; the message lists those there are.
        """
        selected = self._numbers(numbers)
        columns = self._take(keys, selected, self._columns.are_few(len(selected)))
        for key, found in zip(keys, columns, strict=True):
            if len(self) and not _says_anything(found) and not _says_anything(self.column(key)):
                known = self.keys()
                raise UnknownNameError(
                    f"no record of {self._folder.location} has the key {key!r}{nearest(key, known)}; "
                    f"they have {', '.join(known) or 'none'}"
                )
        return columns

    def keys(self) -> list[str]:
        """The keys that records have: of all of them, or, where there are very many, of a thousand spread evenly."""
        step = max(1, len(self) // _SAMPLED)
        return list(dict.fromkeys(key for entry in self.entries(range(0, len(self), step)) for key in entry))

    def match(self, conditions: Mapping[str, Any], numbers: Iterable[int] | None = None) -> Array:
        """The numbers of the records that say exactly this, in their order; of all records, or of those numbered.

        Values are compared as in Python, so that `correct=1` finds True. `None` finds what is null, which is also what
        a number that is not finite has become; `MISSING` finds records that lack the key.

        Raises:
            UnknownNameError: no record at all has one of the keys; the message lists those there are.
            SelectionError: a value that no ledger can hold.
        """
        wanted = {key: comparable(key, value) for key, value in conditions.items()}
        selected = self._numbers(numbers)
        accepted = numpy.ones(len(selected), bool)
        for value, column in zip(wanted.values(), self.columns(list(wanted), selected), strict=True):
            with self._reading():
                accepted &= numpy.fromiter((found == value for found in column), bool, len(selected))
        return selected[accepted]

    def match_by(self, accept: Callable[[Mapping[str, Any]], Any], numbers: Iterable[int] | None = None) -> Array:
        """The numbers of the records for which `accept` says True, in their order.

        It is given a mapping of what the record says. Only the keys that it looks up are read.
        """
        selected = self._numbers(numbers)
        alone = self._columns.are_few(len(selected))
        accepted: list[int] = []
        asked: list[str] = []
        start, stop = 0, _TRIED
        while start < len(selected):
            part = selected[start:stop]
            values = Looked(functools.partial(self._take, numbers=part, alone=alone), asked)
            entries = (Entry(values, row, number, self.entry) for row, number in enumerate(part.tolist()))
            accepted += [entry.number for entry in entries if accept(entry)]
            asked = list(values)
            start, stop = stop, stop + _PIECE
        return numpy.array(accepted, numpy.int64)

    @property
    def problems(self) -> LedgerProblems:
        """What was left out, as far as the ledger was read."""
        files = self._files.values()
        counts = numpy.bincount(self._held["shard"], minlength=len(self._named.names)).tolist()
        return LedgerProblems(
            torn=[(file.name, file.end) for file in files if file.torn],
            damaged=[(file.name, line, why) for file in files for line, why in file.damaged],
            missing={name: count for name, count in zip(self._named.names, counts, strict=True) if count},
            duplicates=self._duplicates,
        )

    def _read_on(self) -> None:
        """Read what is new, and count it all at once: after an error everything is as it was."""
        sizes = {name: size for name, size in self._folder.sizes("ledger").items() if name.endswith(".jsonl")}
        if not self._files.keys() <= sizes.keys():
            raise ReadAgainError
        files, found = dict(self._files), [self._held]
        for name in sorted(sizes):
            file = files.get(name) or LedgerFile(name, len(files))
            files[name], places = file.read_on(self._folder, sizes[name], self._named)
            found += places
        # Looked at after the lines: a writer names no shard that is not there.
        present = self._folder.sizes("shards")
        if not present.keys() >= set(self.shards):
            raise ReadAgainError
        self._files = files
        self._file_names[:] = files
        self._count(numpy.concatenate(found), present)

    def _count(self, found: Array, present: Mapping[str, int]) -> None:
        """Number the lines whose shard is there and that are no repetitions."""
        there = numpy.array([name in present for name in self._named.names], bool)[found["shard"]]
        self._held, found = found[~there], found[there]
        known = len(self.shards)
        named, first = numpy.unique(found["shard"], return_index=True)
        numbers = {name: number for number, name in enumerate(self.shards)}
        renumbered = numpy.zeros(len(self._named.names), numpy.int32)
        for number in named[numpy.argsort(first)].tolist():
            renumbered[number] = numbers.setdefault(self._named.names[number], len(numbers))
        self.shards = list(numbers)
        found["shard"] = renumbered[found["shard"]]
        new = self._are_new(found, known)
        self._duplicates += len(found) - int(new.sum())
        self._number(numpy.concatenate((self._places, found[new])))

    def _are_new(self, found: Array, known: int) -> Array:
        """Which lines are of records that no line before them is of; the first `known` shards had lines before."""
        keys = _identities(found)
        new = numpy.ones(len(found), bool)
        if (numpy.diff(keys) <= 0).any():
            new[:] = False
            new[numpy.unique(keys, return_index=True)[1]] = True
        continued = numpy.unique(found["shard"][found["shard"] < known])
        if len(continued):
            before = self._places[numpy.isin(self.shard_numbers, continued)]
            new &= ~numpy.isin(keys, _identities(before))
        return new

    def _number(self, places: Array) -> None:
        self._places = places
        self._columns.extend(places)
        self.shard_numbers = numpy.ascontiguousarray(places["shard"])
        self.indexes = numpy.ascontiguousarray(places["index"])

    def _take(self, keys: Sequence[str], numbers: Array, alone: bool) -> list[Sequence[Any]]:
        with self._reading():
            return self._columns.take(keys, numbers, alone)

    def _numbers(self, numbers: Iterable[int] | None) -> Array:
        if numbers is None:
            return numpy.arange(len(self))
        if not isinstance(numbers, numpy.ndarray | Sequence):
            numbers = list(numbers)
        return numpy.asarray(numbers, numpy.int64)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise FormatError(
                f"a ledger of {self._folder.location} cannot be read: {error}; 'actframe verify' says more"
            ) from error


def _says_anything(column: Iterable[Any]) -> bool:
    return any(value is not MISSING for value in column)


def _identities(places: Array) -> Array:
    identities: Array = places["shard"].astype(numpy.int64) << 32
    identities |= places["index"]
    return identities


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")
