"""Putting a damaged store right: what is sound stays, what is damaged is moved aside, ledgers are made from shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actframe.errors import StorageError
from actframe.records.shard import Shard
from actframe.storage.files import read_bundle
from actframe.storage.folders import store_folder
from actframe.storage.identity import is_store, read_identity
from actframe.storage.keys import RecordKeys, writer_of
from actframe.storage.ledger_lines import stored_line
from actframe.storage.ledger_scan import FileScan
from actframe.storage.local import LocalFolder
from actframe.storage.lost_identity import repair_identity
from actframe.storage.quarantine import keep_copy, put_aside
from actframe.storage.store_folder import StoreFolder
from actframe.storage.survey import Progress, RecordName, ShardFinding, Survey, survey

__all__ = ["RepairReport", "repair_store"]


@dataclass
class RepairReport:
    """What `repair` did.

    Attributes:
        location: of the store.
        quarantined: shards that were moved to `quarantine/`, and why.
        missing: shards that the ledger named and that are not there.
        lost: the records of both, as far as the ledger says: what a rerun of the same command makes again.
        restored: how many records have got their ledger line back.
        dropped: how many lines were removed: of lost records, damaged, repeated.
        rewritten: ledgers that were written anew; the old ones are in `quarantine/`.
        identity: what was done about `run.json`, if anything.
        left: what could not be put right, and why.
    """

    location: str
    quarantined: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    lost: list[RecordName] = field(default_factory=list)
    restored: int = 0
    dropped: int = 0
    rewritten: list[str] = field(default_factory=list)
    identity: str | None = None
    left: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.quarantined or self.rewritten or self.identity)

    def as_json(self) -> dict[str, Any]:
        """The report in JSON-safe form."""
        return {**asdict(self), "changed": self.changed}


def repair_store(store: Path | str | StoreFolder, progress: Progress | None = None) -> RepairReport:
    """Put a damaged store right, as far as its files allow.

    Ledgers that are lost, cut, or damaged are made from the shards, which repeat what their records say. Where a line
    and a shard contradict each other, the shard is right, if its checksum holds. Shards that are damaged are moved to
    `quarantine/`, and so are copies of the ledgers that are written anew: nothing is deleted. Doing it twice is the
    same as once, and being killed meanwhile costs nothing but doing it again.

    What a process that still runs has open is left alone. Where nobody can tell (on object storage, and on disks
    without locks), see to it that none does.

    Raises:
        StorageError: there is no store, or it cannot be written.
    """
    folder = store if isinstance(store, StoreFolder) else store_folder(store)
    if not is_store(folder):
        read_identity(folder)
    if not folder.is_writable():
        raise StorageError(f"cannot repair {folder.location}: it cannot be written")
    report = RepairReport(folder.location)
    with ExitStack() as locks:
        names = [name for name in folder.sizes("ledger") if name.endswith(".jsonl")]
        # Held, so that nobody who opens the store meanwhile repairs it in another way.
        logs = {name: folder.adopt_log(f"ledger/{name}") for name in names}
        for log in filter(None, logs.values()):
            locks.enter_context(log)
        in_doubt = [name for name, log in logs.items() if log is None]
        held = {name for name in in_doubt if folder.has_writer(f"ledger/{name}")}
        identity, report.identity = repair_identity(folder)
        found = survey(folder, RecordKeys(identity.origin), progress, held)
        _Repair(folder, found, identity.run is not None, report).do()
        if isinstance(folder, LocalFolder):
            writers = {writer_of(name) for name in in_doubt}
            folder.discard_leftovers(lambda writer: writer in writers)
    return report


class _Repair:
    """Acts on what was found. Shards are moved before ledgers are written: without its lines, a damaged one looks new.

    Args:
        folder: of the store.
        found: what is wrong.
        is_run: whether each question and trial belongs into the store once.
        report: is told what is done.
    """

    def __init__(self, folder: StoreFolder, found: Survey, is_run: bool, report: RepairReport) -> None:
        self._folder = folder
        self._found = found
        self._is_run = is_run
        self._report = report
        self._facts = {shard.name: shard.facts for shard in found.shards}
        self._kept: dict[str, list[tuple[str, int, int]]] = {file.name: [] for file in found.scan.files}
        self._new: dict[str, list[tuple[str, list[int]]]] = {}

    def do(self) -> None:
        """Do everything."""
        for shard in self._found.shards:
            self._handle(shard)
        for number, file in enumerate(self._found.scan.files):
            lines = int((self._found.scan.lines["file"] == number).sum())
            wrong = file.damaged or file.name in self._new or len(self._kept[file.name]) < lines
            if wrong and file.held:
                self._leave(
                    f"ledger/{file.name}", "a process that still runs has it open; repair again when it has ended"
                )
            elif wrong or (file.torn and not file.held):
                self._rewrite(file.name)
        for name in self._new.keys() - self._kept.keys():
            self._rewrite(name)
        # A line that names another shard than its own makes a record look lost that is not.
        found = {(each.question_id, each.trial) for shard in self._found.shards for each in shard.lacking}
        found.discard((None, None))
        self._report.lost = [each for each in self._report.lost if (each.question_id, each.trial) not in found]

    def _handle(self, shard: ShardFinding) -> None:
        """Move a shard aside if that is what it takes, and say which of its lines stay."""
        name = f"shards/{shard.name}"
        rows = [*shard.good.values(), *shard.wrong]
        held = shard.held or any(self._file_of(row).held for row in rows)
        if shard.state == "unreadable":
            self._leave(name, shard.why)
        elif shard.state == "damaged" and held:
            self._leave(name, f"{shard.why}; a process that still runs writes there")
        elif shard.state in ("damaged", "missing"):
            self._report.lost += shard.lost
            if shard.state == "damaged":
                self._put_aside(name, shard.why)
            else:
                self._report.missing.append(shard.name)
        repeated = {each.index for each in shard.repeated} if self._is_run else set()
        if shard.state == "sound" and not shard.lacking and not shard.good.keys() - repeated and not held:
            self._put_aside(name, "all it holds was recorded again")
        for index, row in shard.good.items():
            if index not in repeated:
                self._kept[self._file_of(row).name].append((shard.name, index, row))
        if shard.lacking:
            self._new.setdefault(self._home(shard, rows), []).append(
                (shard.name, [each.index for each in shard.lacking])
            )

    def _home(self, shard: ShardFinding, rows: list[int]) -> str:
        """The ledger that a shard's new lines go to."""
        writer = writer_of(shard.name)
        files = [self._file_of(row) for row in rows]
        files += [file for file in reversed(self._found.scan.files) if writer_of(file.name) == writer]
        return next((file.name for file in files if not file.held), f"{writer}.jsonl")

    def _rewrite(self, name: str) -> None:
        """Write one ledger anew, in the order of the shards; what it was is kept."""
        path = f"ledger/{name}"
        old = self._folder.read(path) if name in self._kept else b""
        bounds = self._found.scan.lines[["start", "stop"]]
        lines = {}
        for shard, index, row in self._kept.get(name, ()):
            start, stop = bounds[row].tolist()
            lines[shard, index] = old[start:stop]
        kept = len(lines)
        for shard, indexes in self._new.get(name, ()):
            lines |= {(shard, index): line for index, line in self._own_lines(shard, indexes)}
        content = b"".join(lines[place] for place in sorted(lines))
        if old:
            keep_copy(self._folder, path)
        if content:
            self._folder.write(path, content)
        else:
            self._folder.remove(path)
        self._report.rewritten.append(path)
        self._report.restored += len(lines) - kept
        self._report.dropped += old.count(b"\n") + (not old.endswith(b"\n") and bool(old)) - kept

    def _own_lines(self, shard: str, indexes: list[int]) -> Iterator[tuple[int, bytes]]:
        """Ledger lines of a shard's records, as it says them itself."""
        facts = self._facts[shard]
        assert facts is not None
        lines = Shard(read_bundle(self._folder.local(f"shards/{shard}"))).lines()
        for index in indexes:
            yield index, stored_line(lines[index], {"shard": shard, "index": index, **asdict(facts)})

    def _put_aside(self, name: str, why: str) -> None:
        put_aside(self._folder, name)
        self._report.quarantined[name.partition("/")[2]] = why

    def _leave(self, name: str, why: str) -> None:
        self._report.left.append(f"{name}: {why}")

    def _file_of(self, row: int) -> FileScan:
        file: FileScan = self._found.scan.files[self._found.scan.lines["file"][row]]
        return file
