"""What opening a store repairs: the traces of a process that was killed while it wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy

from actframe.errors import StorageError
from actframe.records.shard import Shard
from actframe.storage.checksums import file_checksum
from actframe.storage.files import read_bundle
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING, decode_line, stored_line
from actframe.storage.local import LocalFolder
from actframe.storage.store_folder import StoreFolder

__all__ = ["committed_keys", "key_of", "missing_lines", "recover", "writer_of"]


def recover(folder: StoreFolder, ledger: Ledger) -> str | None:
    """Repair what writers that have ended left behind; say what was done, or what should be.

    Torn last lines are cut off, half-written files deleted, and complete shards whose ledger lines are missing get
    them, from what the shards themselves say. What a writer that still runs has not committed yet is its own, and a
    folder that cannot be written, or where nobody can tell who still writes, is left as it is.
    """
    problems = ledger.problems
    said = [f"{len(problems.missing)} shards are missing ({_some(problems.missing)})"] if problems.missing else []
    if problems.damaged:
        said.append(f"{len(problems.damaged)} ledger lines are damaged")
    # Elsewhere nobody can tell whether a writer has ended.
    if isinstance(folder, LocalFolder) and folder.is_writable():
        orphans = _orphans(folder, ledger)
        for writer in {writer_of(name) for name in [*orphans, *(name for name, _ in problems.torn)]}:
            mine = [name for name in orphans if writer_of(name) == writer]
            said += _recover_writer(folder, ledger, writer, mine)
        folder.discard_leftovers(lambda writer: _is_alive(folder, writer))
    if not said:
        return None
    advice = "" if not (problems.missing or problems.damaged) else "; `actframe repair` puts the ledger right"
    return f"the store {folder.location}: {', '.join(said)}{advice}"


def committed_keys(ledger: Ledger) -> set[tuple[Any, Any]]:
    """The (question_id, trial) of every record of a benchmark run that the ledger holds."""
    if not len(ledger):
        return set()
    pairs = zip(ledger.column("question_id"), ledger.column("trial"), strict=True)
    return {(question, trial) for question, trial in pairs if question is not MISSING and trial is not MISSING}


def missing_lines(
    folder: StoreFolder, name: str, present: Iterable[int], keys: set[tuple[Any, Any]]
) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """The ledger lines that a shard's records lack, each with what it says.

    Args:
        folder: of the store.
        name: of the shard.
        present: the numbers of the records that have a line.
        keys: of the records of a run that are committed; those are not committed twice.

    Raises:
        StorageError: the shard cannot be read.
    """
    path = folder.local(f"shards/{name}")
    lines = Shard(read_bundle(path)).lines()
    stored = {"shard": name, "records": len(lines), "bytes": path.stat().st_size, "checksum": file_checksum(path)}
    there = set(present)
    for index, line in enumerate(lines):
        said = decode_line(line)
        if index not in there and key_of(said) not in keys:
            yield stored_line(line, {**stored, "index": index}), said


def key_of(said: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The question and trial that a record is of, if it is of any."""
    return (said["question_id"], said["trial"]) if "question_id" in said and "trial" in said else None


def writer_of(name: str) -> str:
    """The writer whose shard or ledger this is: the first two parts of the name."""
    return "-".join(name.partition(".")[0].split("-")[:2])


def _orphans(folder: StoreFolder, ledger: Ledger) -> list[str]:
    """The shards of which some records have no ledger line."""
    counts = numpy.bincount(ledger.shard_numbers, minlength=len(ledger.shards)).tolist()
    complete = {
        name for name, count in zip(ledger.shards, counts, strict=True) if count and count >= ledger.facts(name).records
    }
    return [name for name in folder.sizes("shards") if name not in complete]


def _recover_writer(folder: LocalFolder, ledger: Ledger, writer: str, orphans: list[str]) -> list[str]:
    """Complete the ledger of one writer, if it has ended; returns what was done."""
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
                lines = [
                    line for line, _ in missing_lines(folder, shard, _present(ledger, shard), committed_keys(ledger))
                ]
            except StorageError as error:
                said.append(f"the shard {shard} lacks ledger lines and cannot be read ({error}); try `actframe repair`")
                continue
            if lines:
                log.append(b"".join(lines))
                said.append(f"committed {len(lines)} records of the shard {shard}, whose ledger lines were missing")
            elif not _present(ledger, shard):
                folder.move(f"shards/{shard}", f"quarantine/{shard}")
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


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
