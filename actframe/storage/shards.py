"""ShardDraft, into which records go one by one, and ShardMaker, which makes a shard with its ledger lines of it."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actframe.errors import StorageError
from actframe.records.bundle import Bundle, LazyTensors
from actframe.records.columns import LINES, ShardColumns, is_column
from actframe.records.packing import json_safe, pack
from actframe.storage.backends import describe
from actframe.storage.base import StorageBackend
from actframe.storage.checksums import write_checked
from actframe.storage.failures import failing
from actframe.storage.files import plain_tensor
from actframe.storage.folders import Log, StoreFolder
from actframe.storage.ledger_lines import encode_line, stored_line
from actframe.storage.spool import Spool

__all__ = ["Arrival", "ShardDraft", "ShardMaker", "arrive"]


@dataclass(frozen=True)
class Arrival:
    """A record as it is handed to the writer: checked, and what it says already turned into a line.

    Attributes:
        tensors: by site, plain and on the CPU.
        metadata: what the record says but for its activations.
        line: the same as a line of JSON, with its newline.
    """

    tensors: dict[str, Tensor]
    metadata: Mapping[str, Any]
    line: bytes


def arrive(record: Mapping[str, Any]) -> Arrival:
    """Check a record for the store.

    Raises:
        StorageError: it is no record, or holds what cannot be stored; the message says where.
    """
    bundle = pack(record)
    metadata = {key: value for key, value in bundle.metadata.items() if key != "format"}
    tensors = {site: plain_tensor(site, tensor) for site, tensor in bundle.tensors.items()}
    if reserved := [site for site in tensors if not is_column(site)]:
        raise StorageError(f"a site cannot be called {reserved[0]!r}: such names are those of a shard's own tensors")
    _check_positions(metadata)
    return Arrival(tensors, metadata, encode_line(metadata))


def _check_positions(metadata: Mapping[str, Any]) -> None:
    """Check what a shard's own tensors are made of; the record of an ActivationRecorder is always right."""
    length = metadata.get("prompt_length")
    if length is not None and not _are_positions([length]):
        raise StorageError(f"the record's 'prompt_length' is {length!r:.80}; it is a number of positions, or None")
    odd = metadata.get("site_positions") or {}
    if not isinstance(odd, Mapping):
        raise StorageError(f"the record's 'site_positions' is {odd!r:.80}; it maps sites to lists of positions")
    for name, positions in {"positions": metadata.get("positions"), **odd}.items():
        if not _are_positions(positions) and (positions is not None or name != "positions"):
            raise StorageError(f"the record's positions ({name}) are {positions!r:.80}; they are a list of int")


def _are_positions(values: Any) -> bool:
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        return False
    return not values or (min(values) >= 0 and max(values) < 2**31)


class ShardDraft:
    """The records of a shard in the making. Their tensors are copied, and take no memory that grows.

    Args:
        folder: where its temporary file is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spool = Spool(folder)
        self._columns = ShardColumns()
        self._is_settled = True

    def __len__(self) -> int:
        return self._spool.records

    @property
    def size(self) -> int:
        """How many bytes the records have."""
        return self._spool.size

    def accepts(self, arrival: Arrival) -> bool:
        """Whether a record can be in the same shard as those before it."""
        self._settle()
        return self._columns.accepts(arrival.tensors)

    def add(self, arrival: Arrival) -> None:
        """Take one more record, whole or, whatever happens meanwhile, not at all.

        Raises:
            StorageError: the temporary file cannot be written.
        """
        line = torch.frombuffer(bytearray(arrival.line), dtype=torch.uint8)
        with failing(f"cannot write a record to a temporary file in {self._folder}", after="; it was not taken"):
            self._settle()
            try:
                self._is_settled = False
                placed = self._spool.place({**arrival.tensors, LINES: line})
                self._columns.add(arrival.tensors, arrival.metadata)
                self._spool.note(placed)
                self._is_settled = True
            finally:
                self._settle()

    def lines(self) -> Tensor:
        """What the records say but for their activations, one line of JSON for each: uint8."""
        return self._spool.column(LINES, torch.uint8, (self._spool.size_of(LINES),))

    def bundle(self, about: Mapping[str, Any]) -> Bundle:
        """The shard's bundle, whose columns are put together when they are written; `about` joins its metadata."""
        self._settle()
        index = self._columns.index()

        def facts(name: str) -> tuple[torch.dtype, tuple[int, ...]]:
            if name == LINES:
                return torch.uint8, (self._spool.size_of(LINES),)
            if name in index.tensors:
                return index.tensors[name].dtype, tuple(index.tensors[name].shape)
            return self._columns.facts(name)

        def load(name: str) -> Tensor:
            return index.tensors[name] if name in index.tensors else self._spool.column(name, *facts(name))

        names = [*self._columns.sites, *index.tensors, LINES]
        return Bundle(LazyTensors(names, load, facts=facts), json_safe({**index.metadata, **about}))

    def clear(self) -> None:
        """Begin anew."""
        self._spool.clear()
        self._columns = ShardColumns()

    def close(self) -> None:
        """Give up what it holds."""
        self._spool.close()

    def _settle(self) -> None:
        """Forget a record that was begun and not noted; where this is interrupted too, it is done when it matters."""
        if not self._is_settled:
            self._columns.truncate(len(self))
            self._is_settled = True


class ShardMaker:
    """Makes the shards of one writer.

    Args:
        folder: of the store.
        backend: writes the shards.
        writer: the writer's name, with which its shards' names begin.
        log: the writer's ledger.
        run: what defines the run: each shard repeats it, so that a lost `run.json` can be made anew.
    """

    def __init__(
        self,
        folder: StoreFolder,
        backend: StorageBackend,
        writer: str,
        log: Log,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = folder
        self._backend = backend
        self._writer = writer
        self._log = log
        self._about = {} if run is None else {"run": run}
        self._made = 0
        self._is_doubtful = False
        self._holdable: set[tuple[str, torch.dtype]] = set()
        self._workspace = folder.workspace()

    def draft(self) -> ShardDraft:
        """An empty draft."""
        return ShardDraft(self._workspace)

    def check(self, arrival: Arrival) -> None:
        """Refuse a record that the backend cannot hold: in a shard it would be in the way of all others, and for good.

        What knows of dtypes and names is the backend alone, so it writes one element of each that is new.

        Raises:
            StorageError: the backend says that it cannot.
        """
        new = {(site, tensor.dtype) for site, tensor in arrival.tensors.items()} - self._holdable
        if not new:
            return
        temporary = self._workspace / f".{self._writer}-{secrets.token_hex(8)}{self._backend.suffix}"
        try:
            self._backend.write(temporary, Bundle({site: torch.empty(1, dtype=dtype) for site, dtype in new}))
        except StorageError as error:
            raise StorageError(f"cannot store the record ({describe(self._backend)}): {error}") from error
        except Exception:
            # Not about this record. It will be said when a shard is written, or it is over by then.
            return
        finally:
            temporary.unlink(missing_ok=True)
        self._holdable |= new

    def commit(self, draft: ShardDraft) -> int:
        """Write a shard, then its ledger lines, each durably; returns how many bytes these are.

        Raises:
            StorageError: nothing was committed, and the draft is as it was.
        """
        name = f"{self._writer}-{self._made + 1:06d}{self._backend.suffix}"
        temporary = self._workspace / f".{name}"
        what = f"cannot write {len(draft)} records to the shard {name} of {self._folder.location}"
        with failing(what, self._backend, "; they are kept, and flush() tries again"):
            try:
                if self._is_doubtful:
                    self._take_back(name)
                checksum = write_checked(self._backend, temporary, draft.bundle(self._about))
                shard_bytes = temporary.stat().st_size
                stored = {
                    "shard": name,
                    "records": len(draft),
                    "bytes": shard_bytes,
                    "checksum": checksum,
                }
                self._is_doubtful = True
                self._folder.publish(temporary, f"shards/{name}")
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            line_bytes = self._log_lines(draft, stored)
        self._made, self._is_doubtful = self._made + 1, False
        return shard_bytes + line_bytes

    def _log_lines(self, draft: ShardDraft, stored: Mapping[str, Any]) -> int:
        lines = draft.lines().numpy().tobytes().splitlines()
        text = b"".join(stored_line(line, {**stored, "index": index}) for index, line in enumerate(lines))
        try:
            self._log.append(text)
        except BaseException:
            # Without its lines nobody knows the shard, and the next attempt writes it again.
            self._take_back(stored["shard"])
            raise
        return len(text)

    def _take_back(self, name: str) -> None:
        """Delete a shard that has no ledger lines; it may not be there."""
        try:
            self._folder.remove(f"shards/{name}")
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
