"""TargetStore: a store that is made of others, shard by shard, and goes on where it was left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actframe.errors import StorageError
from actframe.records.packing import json_safe
from actframe.records.shard import Shard
from actframe.storage.checksums import file_checksum
from actframe.storage.files import read_bundle
from actframe.storage.folders import Log, store_folder
from actframe.storage.identity import IDENTITY, begin_store, identity_content, is_store, read_identity
from actframe.storage.keys import new_writer
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import stored_line

__all__ = ["TargetStore"]


class TargetStore:
    """A store in the making.

    Each of its shards is made of one shard of another store, whose name it keeps, in one step. So the store itself
    says how far it is, whatever happened to the process that made it. Its ledger lines go to a ledger of this sitting.

    Args:
        location: a folder or a URL; there is nothing yet, or a store of the same origin.
        backend: the storage backend that the store is begun with.
        run: what defines its run.
        origin: what it is made of, and how.

    Raises:
        StorageError: there is something else.
    """

    def __init__(
        self, location: Path | str, backend: str, run: Mapping[str, Any] | None, origin: Mapping[str, Any]
    ) -> None:
        self.folder = store_folder(location)
        if not is_store(self.folder):
            begin_store(self.folder, backend, run, origin)
        found, asked = read_identity(self.folder).origin, json_safe(origin)
        if found != asked and found is not None and not self.folder.sizes("shards"):
            # An attempt that failed before anything was made.
            self.folder.write(IDENTITY, identity_content(backend, run, origin))
        elif found != asked:
            raise StorageError(
                f"{self.folder.location} is a store already, and not what this would make{_unlike(found, asked)}; "
                f"choose a new folder"
            )
        self._ledger = Ledger(self.folder)
        self._ledger.refresh()
        self._present = self.folder.sizes("shards")
        self._writer = new_writer()
        self._log: Log | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.close()

    def has(self, name: str, records: int, committed: Sequence[int]) -> bool:
        """Whether the shard of that name is there. Where only its ledger lines are missing, it gets them.

        Args:
            name: of the shard.
            records: how many it has to have.
            committed: the numbers of those that have to have a line.

        Raises:
            StorageError: it has another number of records: what it was made of has changed.
        """
        if name not in self._present:
            return False
        there: set[int] = set()
        if name in self._ledger.shards:
            there.update(self._ledger.indexes[self._ledger.shard_numbers == self._ledger.shards.index(name)].tolist())
        found = self._ledger.facts(name).records if there else None
        if found is None or not there.issuperset(committed):
            path = self.folder.local(f"shards/{name}")
            lines = Shard(read_bundle(path)).lines()
            found = len(lines)
        if found != records:
            raise StorageError(
                f"{self.folder.location} was begun with a shard {name} of {found} records, which now has {records}: "
                f"the store that it is made of has changed since; choose a new folder"
            )
        if not there.issuperset(committed):
            missing = {index: lines[index] for index in committed if index not in there}
            self._log_lines(name, missing, (found, path.stat().st_size, file_checksum(path)))
        return True

    def temporary(self, name: str) -> Path:
        """Where to make a new shard; it must be gone when that fails."""
        return self.folder.workspace() / f".{self._writer}-{name}"

    def add(self, temporary: Path, name: str, lines: Mapping[int, bytes], records: int, checksum: str) -> None:
        """Make a finished shard of so many records part of the store, with the lines of those that are committed."""
        size = temporary.stat().st_size
        self.folder.publish(temporary, f"shards/{name}")
        self._log_lines(name, lines, (records, size, checksum))

    def _log_lines(self, name: str, lines: Mapping[int, bytes], facts: tuple[int, int, str]) -> None:
        if self._log is None:
            self._log = self.folder.open_log(f"ledger/{self._writer}.jsonl")
        stored = {"shard": name, **dict(zip(("records", "bytes", "checksum"), facts, strict=True))}
        self._log.append(b"".join(stored_line(line, {**stored, "index": index}) for index, line in lines.items()))


def _unlike(found: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> str:
    """In what the origin of a store and the one that is asked for differ."""
    kind = next(iter(asked))
    there = (found or {}).get(kind)
    if not isinstance(there, Mapping) or not isinstance(asked[kind], Mapping):
        return ""
    other = [f"{key}: {there.get(key)!r} -> {value!r}" for key, value in asked[kind].items() if there.get(key) != value]
    return f" (there -> asked for: {', '.join(other)})"
