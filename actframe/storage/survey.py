"""What is in a store, each file held against the others: what `verify` tells of, and `repair` acts on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy

from actframe.errors import ActframeError, FormatError, StorageError, UnknownNameError
from actframe.records.columns import FORMAT
from actframe.records.shard import Shard
from actframe.storage.checksums import file_checksum
from actframe.storage.failures import failing
from actframe.storage.files import read_bundle
from actframe.storage.identity import OWN_FILE
from actframe.storage.keys import RecordKeys, writer_of
from actframe.storage.ledger_files import PLACE, Array, Lines, ShardFacts
from actframe.storage.ledger_lines import MISSING, STORED, Projection, decode_line
from actframe.storage.ledger_scan import LedgerScan, line_digest, scan_ledger
from actframe.storage.store_folder import StoreFolder

__all__ = ["Progress", "RecordName", "ShardFinding", "Survey", "survey"]

Progress = Callable[[int, int], None]
"""Is told how many bytes are done, and how many there are in all."""

State = Literal["sound", "missing", "damaged", "unreadable"]


@dataclass(frozen=True)
class RecordName:
    """What a record is called in a report: question and trial, where it has them, and its place."""

    shard: str
    index: int
    question_id: Any = None
    trial: Any = None

    def __str__(self) -> str:
        if self.question_id is None:
            return f"record {self.index} of {self.shard}"
        return f"{self.question_id} (trial {self.trial})"


@dataclass
class ShardFinding:
    """One shard, and its lines in the ledger.

    Attributes:
        name: of the file.
        state: `"missing"`: lines name it, and it is not there. `"damaged"`: it is not what was committed.
            `"unreadable"`: it may well be, and cannot be read here.
        why: it is not sound.
        facts: of the file as it is, where it could be read.
        good: by index, the number of the record's line in the scan.
        wrong: numbers of lines that are not what the shard says, or whose shard is gone.
        lacking: records of a sound shard that need a line.
        elsewhere: records of a sound shard without a line, whose question and trial another record has.
        repeated: records with a line whose question and trial an earlier record has.
        lost: the records of a shard that is not sound, as far as the ledger says.
        held: a process that still runs has its ledger open.
    """

    name: str
    state: State = "sound"
    why: str = ""
    facts: ShardFacts | None = None
    good: dict[int, int] = field(default_factory=dict)
    wrong: list[int] = field(default_factory=list)
    lacking: list[RecordName] = field(default_factory=list)
    elsewhere: list[RecordName] = field(default_factory=list)
    repeated: list[RecordName] = field(default_factory=list)
    lost: list[RecordName] = field(default_factory=list)
    held: bool = False


@dataclass(frozen=True)
class Survey:
    """Everything that was found.

    Attributes:
        scan: the ledger.
        shards: those that lines name, in the ledger's order, then the others.
    """

    scan: LedgerScan
    shards: list[ShardFinding]


def survey(
    folder: StoreFolder, keys: RecordKeys, progress: Progress | None = None, held: Collection[str] | None = None
) -> Survey:
    """Look at every line of the ledger and every byte of the shards. Nothing is changed.

    Args:
        folder: of the store.
        keys: tell which records are answers to the same question.
        progress: is told how far it has come.
        held: as for `scan_ledger`.

    Raises:
        StorageError: the folder or its ledger cannot be read.
    """
    # Listed first: what is there before the ledger is read, and not in it, lacks its lines.
    before = folder.sizes("shards")
    scan = scan_ledger(folder, held)
    sizes = folder.sizes("shards")
    surveyor = _Surveyor(folder, scan, keys)
    names = [
        *scan.shards,
        *(name for name in sorted(before.keys() & sizes.keys() - set(scan.shards)) if OWN_FILE.match(name)),
    ]
    done, total = 0, sum(sizes.get(name, 0) for name in names)
    for name in names:
        surveyor.examine(name, name in sizes)
        done += sizes.get(name, 0)
        if progress is not None:
            progress(done, total)
    surveyor.decide()
    return Survey(scan, surveyor.findings)


class _Surveyor:
    """Examines one shard after the other, and decides at the end what can only be known then."""

    def __init__(self, folder: StoreFolder, scan: LedgerScan, keys: RecordKeys) -> None:
        self.findings: list[ShardFinding] = []
        self._folder = folder
        self._scan = scan
        self._keys = keys
        self._texts = Lines(folder, [file.name for file in scan.files])
        self._held = {writer_of(file.name) for file in scan.files if file.held}
        self._order = numpy.argsort(scan.lines["shard"], kind="stable")
        self._bounds = numpy.searchsorted(scan.lines["shard"][self._order], numpy.arange(len(scan.shards) + 1))
        self._numbers = {name: number for number, name in enumerate(scan.shards)}
        self._claims: dict[str, dict[ShardFacts, int]] = {}
        for number, (name, facts) in enumerate(scan.claims):
            self._claims.setdefault(name, {})[facts] = number
        self._taken: set[Any] = set()
        self._undecided: list[tuple[ShardFinding, RecordName, Any]] = []

    def examine(self, name: str, present: bool) -> None:
        """Look at one shard, and its lines."""
        finding = ShardFinding(name, held=writer_of(name) in self._held)
        self.findings.append(finding)
        rows = self._rows(name)
        content = self._read(finding, present)
        if finding.state == "sound":
            self._compare(finding, rows, content)
            return
        finding.lost = list(self._names(name, rows))
        if finding.state == "unreadable":
            for row in rows.tolist():
                fits = finding.facts is None or self._scan.claims[self._scan.lines["claim"][row]][1] == finding.facts
                if not fits or finding.good.setdefault(int(self._scan.lines["index"][row]), row) != row:
                    finding.wrong.append(row)
        else:
            finding.wrong = rows.tolist()

    def decide(self) -> None:
        """Of the records without a line, tell those that should have one from those that were recorded again."""
        for finding, name, key in self._undecided:
            known = key is not None and key in self._taken
            (finding.elsewhere if known else finding.lacking).append(name)
            self._taken.add(key)

    def _rows(self, name: str) -> Array:
        """The numbers of a shard's lines."""
        if name not in self._numbers:
            return numpy.empty(0, numpy.int64)
        number = self._numbers[name]
        return self._order[self._bounds[number] : self._bounds[number + 1]]

    def _read(self, finding: ShardFinding, present: bool) -> list[bytes]:
        """The shard's own lines; says in the finding what is wrong with it."""
        claims = self._claims.get(finding.name, {})
        if not present:
            finding.state, finding.why = "missing", "it is not there"
            return []
        try:
            with failing("it cannot be read"):
                path = self._folder.local(f"shards/{finding.name}")
                size, checksum = path.stat().st_size, file_checksum(path)
        except StorageError as error:
            finding.state = "missing" if error.errno == errno.ENOENT else "unreadable"
            finding.why = str(error)
            return []
        known = self._scan.checksums
        if claims and checksum not in known and not any(_is_nearly(checksum, each) for each in known):
            finding.state, finding.why = "damaged", _difference(size, claims)
            return []
        try:
            lines = _own_lines(path, whole=not claims)
        except ActframeError as error:
            # What has the right checksum is what was written, whoever can read it.
            right = bool(claims) or isinstance(error, UnknownNameError)
            finding.state = "unreadable" if right else "damaged"
            finding.why = str(error)
            finding.facts = next((facts for facts in claims if (facts.bytes, facts.checksum) == (size, checksum)), None)
            return []
        finding.facts = ShardFacts(len(lines), size, checksum)
        return lines

    def _compare(self, finding: ShardFinding, rows: Array, content: Sequence[bytes]) -> None:
        """Hold the lines in the ledger against the shard's own."""
        own = numpy.array([line_digest(line) for line in content], numpy.uint64)
        assert finding.facts is not None
        fitting = self._claims.get(finding.name, {}).get(finding.facts)
        meant = set()
        for row in rows.tolist():
            line = self._scan.lines[row]
            index = int(line["index"])
            if line["claim"] == fitting and (
                line["said"] == own[index] or self._says(row) == decode_line(content[index])
            ):
                finding.good.setdefault(index, row)
            else:
                finding.wrong.append(row)
                meant.add(index)
        columns = Projection(RecordKeys.PARTS).columns(b"".join(line + b"\n" for line in content), len(content))
        for index, (question_id, trial, *more) in enumerate(zip(*columns, strict=True)):
            key = self._keys.of(finding.name, question_id, trial, *more)
            name = _name(finding.name, index, question_id, trial)
            if index in finding.good and key is not None and key in self._taken:
                finding.repeated.append(name)
            elif index in finding.good or index in meant:
                if index not in finding.good:
                    finding.lacking.append(name)
                self._taken.add(key)
            elif not finding.held:
                self._undecided.append((finding, name, key))

    def _says(self, row: int) -> dict[str, Any] | None:
        """What a line says of its record; None if it cannot be read."""
        ((_, entry),) = self._entries(numpy.array([row]))
        return None if entry is None else {key: value for key, value in entry.items() if key != STORED}

    def _names(self, shard: str, rows: Array) -> Iterator[RecordName]:
        """The records that some lines are of, as far as these can be read."""
        named = set()
        for row, entry in self._entries(rows):
            index = int(self._scan.lines["index"][row])
            if index not in named:
                named.add(index)
                said = entry or {}
                yield _name(shard, index, said.get("question_id", MISSING), said.get("trial", MISSING))

    def _entries(self, rows: Array) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """What some lines say; None for those that cannot be read."""
        places = numpy.empty(len(rows), PLACE)
        for key in PLACE.names or ():
            places[key] = self._scan.lines[key][rows]
        numbers = iter(rows.tolist())
        for text, _ in self._texts.texts(places):
            for line in bytes(text).removesuffix(b"\n").split(b"\n"):
                try:
                    entry = decode_line(line)
                except FormatError:
                    yield next(numbers), None
                else:
                    yield next(numbers), entry


def _own_lines(path: Path, whole: bool) -> list[bytes]:
    """The lines of a shard, of which everything is read where it is `whole`."""
    with failing("it cannot be read"):
        bundle = read_bundle(path)
        found = str(bundle.metadata.get("format"))
        if found.startswith("shard/") and found != FORMAT:
            raise UnknownNameError(f"its format is {found!r}, which a newer version of actframe may read")
        shard = Shard(bundle)
        if whole:
            shard.check()
        lines = shard.lines()
        for line in lines:
            decode_line(line)
        return lines


def _is_nearly(checksum: str, known: str) -> bool:
    """Whether two checksums differ in one character: then it is the ledger's that is damaged, and not the shard."""
    return len(checksum) == len(known) and sum(a != b for a, b in zip(checksum, known, strict=True)) <= 1


def _difference(size: int, claims: Iterable[ShardFacts]) -> str:
    expected = sorted({facts.bytes for facts in claims})
    if size not in expected:
        return f"it has {size} bytes, where the ledger says {' or '.join(map(str, expected))}"
    return "its checksum is not the one in the ledger"


def _name(shard: str, index: int, question_id: Any, trial: Any) -> RecordName:
    known = question_id is not MISSING and trial is not MISSING
    return RecordName(shard, index, *((question_id, trial) if known else ()))
