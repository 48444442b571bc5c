"""Whether a store is sound: every shard against its checksum, every ledger line against its shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from actframe.errors import FormatError
from actframe.storage.identity import IDENTITY, StoreIdentity, read_identity
from actframe.storage.keys import RecordKeys
from actframe.storage.ledger_scan import FileScan
from actframe.storage.store_folder import StoreFolder
from actframe.storage.survey import Progress, RecordName, ShardFinding, survey

__all__ = ["Problem", "StoreReport", "verify_store"]

_SHOWN = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: which file of the store: `shards/...`, `ledger/...` or `run.json`.
        kind: `"missing"`, `"damaged"` or `"unreadable"` (a shard), `"uncommitted"` (records of a shard that have no
            ledger line), `"repeated"` (records of a run that answer what an earlier one answered), `"line"` or `"torn"`
            (of a ledger), `"identity"` (`run.json`).
        why: in words.
        records: those that it is about.
    """

    file: str
    kind: str
    why: str
    records: tuple[RecordName, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.why}{_listed(self.records)}"


@dataclass(frozen=True)
class StoreReport:
    """What `verify` found.

    Attributes:
        location: of the store.
        shards, bytes: how many there are, and their size.
        records: how many records are committed and sound.
        problems: what is wrong.
        writing: ledgers that a process has open that still runs; what that has not committed is no problem.
    """

    location: str
    shards: int
    bytes: int
    records: int
    problems: tuple[Problem, ...]
    writing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The report in JSON-safe form."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        found = f"{self.records} records in {self.shards} shards of {self.location}"
        if self.ok:
            return f"{found}: sound"
        return "\n".join([f"{found}: {len(self.problems)} problems", *map(str, self.problems)])


def verify_store(folder: StoreFolder, progress: Progress | None = None) -> StoreReport:
    """Check a store; nothing is changed.

    Args:
        folder: of the store.
        progress: is told how many bytes were checked, of how many.

    Raises:
        StorageError: there is no store, or it cannot be read at all.
    """
    problems = []
    try:
        identity = read_identity(folder)
    except FormatError as error:
        identity = StoreIdentity("", None, None)
        problems.append(Problem(IDENTITY, "identity", str(error)))
    if IDENTITY not in folder.sizes(""):
        problems.append(Problem(IDENTITY, "identity", "it is lost, and with it what defined the run"))
    found = survey(folder, RecordKeys(identity.origin), progress)
    names = [file.name for file in found.scan.files]
    for shard in found.shards:
        wrong = [f"ledger/{names[number]}" for number in found.scan.lines["file"][shard.wrong].tolist()]
        problems += _problems_of_shard(shard, wrong, identity.run is not None)
    for file in found.scan.files:
        problems += _problems_of_file(file)
    sizes = folder.sizes("shards")
    return StoreReport(
        location=folder.location,
        shards=len(found.shards),
        bytes=sum(sizes.get(shard.name, 0) for shard in found.shards),
        records=sum(len(shard.good) for shard in found.shards if shard.state == "sound"),
        problems=tuple(problems),
        writing=tuple(file.name for file in found.scan.files if file.held),
    )


def _problems_of_shard(shard: ShardFinding, wrong: list[str], is_run: bool) -> Iterator[Problem]:
    name = f"shards/{shard.name}"
    if shard.state != "sound":
        yield Problem(name, shard.state, shard.why, tuple(shard.lost))
        return
    for ledger in sorted(set(wrong)):
        count = wrong.count(ledger)
        yield Problem(ledger, "line", f"{count} lines are not what the shard {shard.name} says")
    if shard.lacking:
        why = f"{len(shard.lacking)} of its records have no sound line in the ledger"
        yield Problem(name, "uncommitted", why, tuple(shard.lacking))
    elif shard.elsewhere and not shard.good:
        yield Problem(name, "uncommitted", "all it holds was recorded again", tuple(shard.elsewhere))
    if shard.repeated and is_run:
        why = f"{len(shard.repeated)} of its records answer what an earlier record answered"
        yield Problem(name, "repeated", why, tuple(shard.repeated))


def _problems_of_file(file: FileScan) -> Iterator[Problem]:
    name = f"ledger/{file.name}"
    if file.damaged:
        said = "; ".join(f"line {number}: {why}" for number, why in file.damaged[:_SHOWN])
        more = f"; and {len(file.damaged) - _SHOWN} more" if len(file.damaged) > _SHOWN else ""
        yield Problem(name, "line", f"{len(file.damaged)} lines cannot be read: {said}{more}")
    if file.torn and not file.held:
        yield Problem(name, "torn", "its last line was never finished")


def _listed(records: tuple[RecordName, ...]) -> str:
    if not records:
        return ""
    shown = ", ".join(map(str, records[:_SHOWN]))
    return f" ({len(records)} records: {shown}{', ...' if len(records) > _SHOWN else ''})"
