"""What opening a store repairs: the traces of a process that was killed while it wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized

import numpy

from actframe.errors import ActframeError, FormatError
from actframe.records.shard import Shard
from actframe.storage.checksums import file_checksum
from actframe.storage.files import read_bundle
from actframe.storage.identity import OWN_FILE
from actframe.storage.keys import CommittedKeys, RecordKeys, writer_of
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import decode_line, stored_line
from actframe.storage.local import LocalFolder
from actframe.storage.quarantine import put_aside
from actframe.storage.store_folder import StoreFolder

__all__ = ["missing_lines", "recover"]


def recover(folder: StoreFolder, ledger: Ledger, keys: RecordKeys) -> str | None:
    """Repair what writers that have ended left behind; say what was done, or what should be.

    Torn last lines are cut off, half-written files deleted, and complete shards whose ledger lines are missing get
    them, from what the shards themselves say. What a writer that still runs has not committed yet is its own, and a
    folder that cannot be written, or where nobody can tell who still writes, is left as it is.

    Args:
        folder: of the store.
        ledger: as it was read; read it again where this returns something.
        keys: tell which records are answers to the same question.
    """
    problems = ledger.problems
    said = [f"{_are(problems.missing, 'shard')} missing ({_some(problems.missing)})"] if problems.missing else []
    if problems.damaged:
        said.append(f"{_are(problems.damaged, 'ledger line')} damaged")
    # Elsewhere nobody can tell whether a writer has ended.
    if isinstance(folder, LocalFolder) and folder.is_writable():
        orphans = _orphans(folder, ledger)
        committed = CommittedKeys(ledger, keys)
        for writer in sorted({writer_of(name) for name in [*orphans, *(name for name, _ in problems.torn)]}):
            mine = [name for name in orphans if writer_of(name) == writer]
            said += _recover_writer(folder, ledger, committed, writer, mine)
        folder.discard_leftovers(lambda writer: _is_alive(folder, writer))
    if not said:
        return None
    advice = "" if not (problems.missing or problems.damaged) else "; `actframe repair` puts the ledger right"
    return f"the store {folder.location}: {', '.join(said)}{advice}"


def missing_lines(folder: StoreFolder, ledger: Ledger, name: str, committed: CommittedKeys) -> Iterator[bytes]:
    """The ledger lines that a shard's records lack, but for records whose key is that of a committed one.

    Raises:
        StorageError: the shard cannot be read, or is not the one that the ledger knows.
    """
    path = folder.local(f"shards/{name}")
    lines = Shard(read_bundle(path)).lines()
    stored = {"shard": name, "records": len(lines), "bytes": path.stat().st_size, "checksum": file_checksum(path)}
    there = set(_present(ledger, name))
    if there and ledger.facts(name).checksum != stored["checksum"]:
        raise FormatError(f"cannot read the shard {name} of {folder.location}: its checksum is not the ledger's")
    for index, line in enumerate(lines):
        if index not in there and committed.take(name, decode_line(line)):
            yield stored_line(line, {**stored, "index": index})


def _orphans(folder: StoreFolder, ledger: Ledger) -> list[str]:
    """The shards of which some records have no ledger line."""
    counts = numpy.bincount(ledger.shard_numbers, minlength=len(ledger.shards)).tolist()
    complete = {
        name for name, count in zip(ledger.shards, counts, strict=True) if count and count >= ledger.facts(name).records
    }
    return [name for name in folder.sizes("shards") if name not in complete and OWN_FILE.match(name)]


def _recover_writer(
    folder: LocalFolder, ledger: Ledger, committed: CommittedKeys, writer: str, orphans: list[str]
) -> list[str]:
    """Complete the ledger of one writer, if it has ended, with its orphans; returns what was done."""
    name = f"ledger/{writer}.jsonl"
    log = folder.adopt_log(name) if f"{writer}.jsonl" in folder.sizes("ledger") else folder.open_log(name)
    if log is None:
        return []
    said = []
    with log:
        text = folder.read(name)
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            log.truncate(whole)
            said.append(f"cut off the last line of {name}, which was never finished")
        for shard in orphans:
            try:
                lines = list(missing_lines(folder, ledger, shard, committed))
            except ActframeError as error:
                said.append(f"the shard {shard} lacks ledger lines and cannot be read ({error}); try `actframe repair`")
                continue
            if lines:
                log.append(b"".join(lines))
                said.append(f"committed {len(lines)} records of the shard {shard}, whose ledger lines were missing")
            elif not _present(ledger, shard):
                put_aside(folder, f"shards/{shard}")
                said.append(f"moved the shard {shard} to quarantine/: all it holds was recorded again")
        empty = not log.size
    if empty:
        folder.remove(name)
    return said


def _present(ledger: Ledger, shard: str) -> list[int]:
    """The numbers of a shard's records that have a ledger line."""
    if shard not in ledger.shards:
        return []
    found: list[int] = ledger.indexes[ledger.shard_numbers == ledger.shards.index(shard)].tolist()
    return found


def _is_alive(folder: StoreFolder, writer: str) -> bool:
    """Whether a writer may still be at work."""
    if f"{writer}.jsonl" not in folder.sizes("ledger"):
        return False
    log = folder.adopt_log(f"ledger/{writer}.jsonl")
    if log is not None:
        log.close()
    return log is None


def _are(found: Sized, noun: str) -> str:
    return f"1 {noun} is" if len(found) == 1 else f"{len(found)} {noun}s are"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
