"""The files of a ledger: which of their lines are sound, where these are, and what they say."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, BinaryIO

import msgspec
import numpy
import numpy.typing

from actframe.errors import FormatError, StorageError
from actframe.storage.ledger_lines import Stored, decode_line
from actframe.storage.store_folder import StoreFolder, check_name, storage_errors

__all__ = ["PLACE", "Array", "LedgerFile", "Lines", "ReadAgainError", "ShardFacts", "Shards"]

Array = numpy.typing.NDArray[Any]

PLACE = numpy.dtype([("file", "i4"), ("start", "i8"), ("stop", "i8"), ("shard", "i4"), ("index", "i4")])
"""Where a line is, its newline included, and where it says that its record is."""

# Small enough for the processor's own memory: larger blocks are read no faster, and looked at more slowly.
_BLOCK_BYTES = 4 << 20
# Reading this much for nothing takes as long as another read.
_GAP_BYTES = 256 << 10
# Enough for what a line says of its shard.
_TAIL_BYTES = 256
_NEWLINE, _OPENING, _CLOSING = b"\n{}"


@dataclass(frozen=True)
class ShardFacts:
    """What the ledger says of a shard: how many records it has, its size, and the checksum of the whole file."""

    records: int
    bytes: int
    checksum: str


class ReadAgainError(Exception):
    """A file is not the one of which a part was read before."""


class Shards:
    """The shards that lines have named, numbered as they came."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.facts: list[ShardFacts] = []
        self._numbers: dict[str, int] = {}

    def facts_of(self, name: str) -> ShardFacts:
        """What the ledger says of one shard; KeyError if it says nothing."""
        return self.facts[self._numbers[name]]

    def places(self, stored: Sequence[Stored]) -> Array | None:
        """Numbers of shard and indexes, as the last two fields of `PLACE`; None where one of them cannot be."""
        for name, *facts in dict.fromkeys(map(attrgetter("shard", "records", "bytes", "checksum"), stored)):
            if self._objection(name, ShardFacts(*facts)):
                return None
        found = numpy.empty(len(stored), PLACE)
        found["shard"] = [self._numbers[one.shard] for one in stored]
        found["index"] = [one.index for one in stored]
        records = numpy.array([facts.records for facts in self.facts])
        return found if not stored or (found["index"] < records[found["shard"]]).all() else None

    def objection(self, stored: Stored) -> str:
        """Why a line cannot be right about its shard, else an empty string."""
        facts = ShardFacts(stored.records, stored.bytes, stored.checksum)
        if not (objection := self._objection(stored.shard, facts)) and stored.index >= stored.records:
            return f"it is of record {stored.index} of a shard of {stored.records}"
        return objection

    def _objection(self, name: str, facts: ShardFacts) -> str:
        if name not in self._numbers:
            try:
                check_name(name)
            except StorageError as error:
                return str(error)
            if "/" in name or name.startswith("."):
                return f"{name!r} cannot be the name of a shard"
            self._numbers[name] = len(self.names)
            self.names.append(name)
            self.facts.append(facts)
        known = self.facts[self._numbers[name]]
        return "" if facts == known else f"it says that {name} has {facts}, where an earlier line says {known}"


@dataclass(frozen=True)
class LedgerFile:
    """One file, as far as it was read.

    Attributes:
        name: in the folder `ledger`.
        number: stands for it in places.
        end: how many bytes of whole lines there were.
        lines: how many lines these are, damaged and empty ones included.
        torn: whether anything came after them: a line that is being written, or that never was finished.
        damaged: the numbers of lines that are no use, from 1, and why.
    """

    name: str
    number: int
    end: int = 0
    lines: int = 0
    torn: bool = False
    damaged: tuple[tuple[int, str], ...] = ()
    _tail: bytes = field(default=b"", repr=False)

    def read_on(self, folder: StoreFolder, size: int, shards: Shards) -> tuple[LedgerFile, list[Array]]:
        """The file as far as `size`, and the places of the sound lines that are new.

        Raises:
            ReadAgainError: the file was replaced, or cut.
        """
        if size < self.end:
            raise ReadAgainError(self.name)
        if size == self.end:
            return replace(self, torn=False), []
        scan = _Scan(self.number, self.lines, shards)
        end, tail = self.end, self._tail
        block_bytes = _BLOCK_BYTES
        with self._opened(folder) as read:
            while end < size:
                start, stop = end - len(tail), min(size, end + block_bytes)
                text = read(start, stop)
                if len(text) < stop - start or not text.startswith(tail):
                    raise ReadAgainError(self.name)
                whole = text.rfind(b"\n") + 1 - len(tail)
                if whole > 0:
                    scan.take(memoryview(text)[len(tail) : len(tail) + whole], end)
                    end, tail = end + whole, text[: len(tail) + whole][-_TAIL_BYTES:]
                    block_bytes = _BLOCK_BYTES
                elif stop == size:
                    break
                else:
                    block_bytes *= 2
        damaged = (*self.damaged, *scan.damaged)
        return replace(self, end=end, lines=scan.lines, torn=end < size, damaged=damaged, _tail=tail), scan.places

    @contextlib.contextmanager
    def _opened(self, folder: StoreFolder) -> Iterator[Callable[[int, int], bytes]]:
        """What reads the file from one byte to another."""
        try:
            if self.end:
                # Of a remote file that grows, the little that is new.
                yield functools.partial(folder.read, f"ledger/{self.name}")
            else:
                with opened(folder, self.name) as file:
                    yield functools.partial(_read_at, file)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                raise ReadAgainError(self.name) from error
            raise


class _Row(msgspec.Struct, gc=False):
    stored: Stored


class _Scan:
    """Finds the sound lines of one file, block by block."""

    def __init__(self, file: int, lines: int, shards: Shards) -> None:
        self._file = file
        self._shards = shards
        self.lines = lines
        self.places: list[Array] = []
        self.damaged: list[tuple[int, str]] = []

    def take(self, text: memoryview, offset: int) -> None:
        """Look at whole lines, which begin at `offset` of the file."""
        found = numpy.frombuffer(text, numpy.uint8)
        stops = numpy.flatnonzero(found == _NEWLINE) + 1
        starts = numpy.concatenate(([0], stops[:-1]))
        # The reader of many lines takes any values one after the other. With these around every newline, each is
        # between two of them, and as many as there are lines are one a line.
        framed = (found[starts] == _OPENING).all() and (found[stops - 2] == _CLOSING).all()
        count = len(stops)
        places = self._all_sound(text, count) if framed else None
        if places is None:
            sound, places = self._one_by_one(text, starts, stops)
            starts, stops = starts[sound], stops[sound]
        places["file"], places["start"], places["stop"] = self._file, starts + offset, stops + offset
        self.places.append(places)
        self.lines += count

    def _all_sound(self, text: memoryview, count: int) -> Array | None:
        """The places of all lines, or None where one of them is odd."""
        try:
            rows = _rows.decode_lines(text)
            # What is skipped is not looked at so closely.
            str(text, "utf-8")
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return self._shards.places([row.stored for row in rows]) if len(rows) == count else None

    def _one_by_one(self, text: memoryview, starts: Array, stops: Array) -> tuple[list[int], Array]:
        """Which lines are sound, and their places."""
        sound: list[int] = []
        stored: list[Stored] = []
        for number, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            line = bytes(text[start:stop]).strip()
            if not line:
                continue
            try:
                stored.append(self._stored(line))
                sound.append(number)
            except FormatError as error:
                self.damaged.append((self.lines + number + 1, str(error)))
        places = self._shards.places(stored)
        assert places is not None
        return sound, places

    def _stored(self, line: bytes) -> Stored:
        entry = decode_line(line)
        try:
            stored = msgspec.convert(entry, _Row).stored
        except msgspec.ValidationError as error:
            raise FormatError(f"it does not say where its record is: {error}") from error
        if objection := self._shards.objection(stored):
            raise FormatError(objection)
        return stored


_rows = msgspec.json.Decoder(_Row)


class Lines:
    """Reads lines at places, many at once where they lie together."""

    def __init__(self, folder: StoreFolder, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names

    def texts(self, places: Array) -> Iterator[tuple[memoryview, int]]:
        """The lines at the places, in that order: pieces of text, each with how many lines it is."""
        if not len(places):
            return
        begins, reads = _runs(places)
        ends = [*begins[1:], len(places)]
        starts, stops = places["start"], places["stop"]
        with contextlib.ExitStack() as current:
            number, file = -1, None
            for first, last in zip(reads, [*reads[1:], len(begins)], strict=True):
                if number != places["file"][begins[first]]:
                    current.close()
                    number = int(places["file"][begins[first]])
                    file = current.enter_context(opened(self._folder, self._names[number]))
                assert file is not None
                start, stop = int(starts[begins[first]]), int(stops[ends[last - 1] - 1])
                text = memoryview(_read_at(file, start, stop))
                if len(text) < stop - start:
                    raise FormatError(f"the file {self._names[number]} is shorter than it was; open the store again")
                for run in range(first, last):
                    begin, end = begins[run], ends[run]
                    yield text[int(starts[begin]) - start : int(stops[end - 1]) - start], end - begin


@contextlib.contextmanager
def opened(folder: StoreFolder, name: str) -> Iterator[BinaryIO]:
    """A file of the ledger, open. Of a remote one it is a copy, fetched if there is none that is up to date."""
    path = folder.local(f"ledger/{name}")
    with storage_errors(f"cannot read {path}"):
        file = path.open("rb")
    with file:
        yield file


def _read_at(file: BinaryIO, start: int, stop: int) -> bytes:
    with storage_errors(f"cannot read {file.name}"):
        file.seek(start)
        return file.read(stop - start)


def _runs(places: Array) -> tuple[list[int], list[int]]:
    """The first place of each run of lines without gaps, and the first of the runs of each read."""
    after, before = places[1:], places[:-1]
    gaps = after["start"] - before["stop"]
    apart = (after["file"] != before["file"]) | (gaps < 0) | (gaps > _GAP_BYTES)
    apart |= after["start"] // _BLOCK_BYTES != before["start"] // _BLOCK_BYTES
    begins = numpy.flatnonzero(numpy.concatenate(([True], apart | (gaps != 0))))
    reads = numpy.flatnonzero(numpy.concatenate(([True], apart))[begins])
    return begins.tolist(), reads.tolist()
