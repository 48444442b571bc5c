"""Finding the stores below a folder or a URL, and what can be said of each without opening it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actframe.errors import FormatError, StorageError
from actframe.storage.folders import LocalFolder, StoreFolder, store_folder
from actframe.storage.identity import IDENTITY, OWN_FILE, StoreIdentity, read_identity
from actframe.storage.ledger_lines import decode_line

__all__ = ["FoundStore", "expected_answers", "expected_records", "find_stores", "names_in_run"]

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class FoundStore:
    """A store, as its `run.json` and the sizes of its files tell of it.

    Attributes:
        location: the absolute path or the URL.
        models, benchmarks: the names that its runs give; without a run, the model of the first record.
        records: how many lines its ledger has.
        expected: how many records its run has when it is complete; None where nothing says so.
        bytes: the size of its shards and ledgers.
        last_write: when something was last committed, ISO 8601.
        writing: whether a process that still runs is known to write to it.
        problem: what is wrong, if that is seen without looking further.
    """

    location: str
    models: tuple[str, ...]
    benchmarks: tuple[str, ...]
    records: int
    expected: int | None
    bytes: int
    last_write: str | None
    writing: bool
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The same in JSON-safe form."""
        return asdict(self)


def find_stores(path: Path | str) -> Iterator[FoundStore]:
    """The stores at a path or a URL and below it, in the order of their names; what is in a store is not searched.

    Folders that cannot be listed are warned about and left out. Those with a hidden name are left out.

    Raises:
        StorageError: the path itself cannot be listed.
    """
    yield from _search(store_folder(path), set(), is_top=True)


def _search(folder: StoreFolder, seen: set[str], is_top: bool = False) -> Iterator[FoundStore]:
    if isinstance(folder, LocalFolder):
        # Links may lead back to where they are.
        real = os.path.realpath(folder.path)
        if real in seen:
            return
        seen.add(real)
    try:
        below = folder.folders()
        found = _look(folder, below)
    except StorageError as error:
        if is_top:
            raise
        warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=2)
        return
    if found is not None:
        yield found
        return
    for name in below:
        yield from _search(store_folder(f"{folder.location.rstrip('/')}/{name}"), seen)


def _look(folder: StoreFolder, below: list[str]) -> FoundStore | None:
    """What a folder says of itself; None where it is no store."""
    identity, problem = StoreIdentity("", None, None), None
    own = any(OWN_FILE.match(name) for kind in {"ledger", "shards"} & set(below) for name in folder.sizes(kind))
    if IDENTITY in folder.sizes(""):
        try:
            identity = read_identity(folder)
        except FormatError as error:
            # Other programs call files so too.
            if not own:
                return None
            problem = str(error)
    elif own:
        problem = f"its {IDENTITY} is lost"
    else:
        return None
    ledgers = folder.sizes("ledger")
    records = 0
    said: dict[str, Any] = {}
    for name, size in ledgers.items():
        count, first = _count_lines(folder, f"ledger/{name}", size)
        records += count
        said = said or first
    models, benchmarks = names_in_run(identity.run)
    if not models and isinstance(said.get("model"), str):
        models = (said["model"],)
    return FoundStore(
        location=folder.location,
        models=models,
        benchmarks=benchmarks,
        records=records,
        expected=None if identity.origin else expected_records(identity.run),
        bytes=sum(ledgers.values()) + sum(folder.sizes("shards").values()),
        last_write=_last_write(folder, [f"ledger/{name}" for name in ledgers] or [IDENTITY]),
        writing=any(folder.has_writer(f"ledger/{name}") for name in ledgers),
        problem=problem,
    )


def names_in_run(run: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The models and the benchmarks that the run of a store names, or the runs that it was merged from."""
    runs = run.get("merged", [run]) if isinstance(run, Mapping) else []
    names: dict[str, dict[str, None]] = {"model": {}, "benchmark": {}}
    for each in runs if isinstance(runs, list) else []:
        for key, found in names.items():
            value = each.get(key) if isinstance(each, Mapping) else None
            value = value.get("name") if isinstance(value, Mapping) else value
            if isinstance(value, str):
                found[value] = None
    return tuple(names["model"]), tuple(names["benchmark"])


def expected_answers(run: Any) -> int | None:
    """How many answers the benchmark run of a store has when it is complete; None where nothing says so."""
    try:
        return int(run["benchmark"]["questions"]) * int(run["num_trials"])
    except (TypeError, KeyError, ValueError):
        return None


def expected_records(run: Any) -> int | None:
    """How many records it has then: those of the answers, and of choices that get some of their own."""
    answers = expected_answers(run)
    choices = run.get("recorded_choices", 0) if answers is not None else 0
    return answers + choices if answers is not None and isinstance(choices, int) else answers


def _count_lines(folder: StoreFolder, name: str, size: int) -> tuple[int, dict[str, Any]]:
    """How many lines a ledger has, and what the first one says."""
    count, first = 0, b""
    for start in range(0, size, _BLOCK_BYTES):
        block = folder.read(name, start, min(size, start + _BLOCK_BYTES))
        count += block.count(b"\n")
        first = first or block.partition(b"\n")[0]
    try:
        return count, decode_line(first) if first else {}
    except FormatError:
        return count, {}


def _last_write(folder: StoreFolder, names: list[str]) -> str | None:
    times = []
    for name in names:
        try:
            times.append(folder.changed(name))
        except StorageError:
            # It may have been renamed or deleted since.
            continue
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
