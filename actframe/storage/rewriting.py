"""Writing a store again: in another format, with fewer sites or positions, as another dtype."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from actframe.errors import FormatError
from actframe.records.shard import Shard
from actframe.storage.backends import backend_named
from actframe.storage.base import StorageBackend
from actframe.storage.checksums import file_checksum, write_checked
from actframe.storage.cutting import Cut, CutShard, warn_of_overflows
from actframe.storage.failures import failing
from actframe.storage.files import read_bundle
from actframe.storage.identity import read_identity
from actframe.storage.ledger_files import Array
from actframe.storage.parts import Run, StoreParts, run_of_runs
from actframe.storage.stacking import StackPositions
from actframe.storage.store import ActivationStore
from actframe.storage.survey import Progress
from actframe.storage.target import TargetStore

__all__ = ["Rewritten", "convert_store"]


@dataclass(frozen=True)
class Rewritten:
    """What was written.

    Attributes:
        location: of the new store.
        records, shards: how many it has.
        written: how many of these shards were written now; the others were there from an earlier attempt.
        bytes_before, bytes_after: the size of the shards that it is made of, and of its own.
    """

    location: str
    records: int
    shards: int
    written: int
    bytes_before: int
    bytes_after: int

    def as_json(self) -> dict[str, Any]:
        """The same in JSON-safe form."""
        return asdict(self)


def convert_store(
    source: ActivationStore | Path | str,
    target: Path | str,
    *,
    storage: str | None = None,
    sites: str | int | Sequence[str | int] | None = None,
    positions: StackPositions = "all",
    dtype: torch.dtype | str | None = None,
    progress: Progress | None = None,
) -> Rewritten:
    """Write a store again, shard by shard, into a new one.

    What was written stays when it ends early, whatever the reason; the same call again goes on, and takes what was
    added to the source since. The new store keeps what defines the run, and says what it was made of, and how.

    Args:
        source: what is read; it is not changed.
        target: a new folder or URL.
        storage: the storage backend of the new store. Default: that of the source.
        sites, positions: what is kept, as in `ActivationStore.stack`; sites may be patterns.
        dtype: what floating tensors are cast to. Values that do not fit are warned about, and become infinite.
        progress: is told how many bytes of the source are done, of how many.

    Raises:
        StorageError: the target is another store, or a shard of the source is damaged.
        SelectionError: records do not have the positions.
        SiteError: the source does not have a site.
    """
    store = source if isinstance(source, ActivationStore) else ActivationStore(source, create=False)
    cut = Cut(sites, positions, dtype)
    chosen = None if sites is None else cut.choose(store.sites, f"the store {store.location}")
    backend = backend_named(storage or store.backend)
    parts = StoreParts(read_identity(store.folder))
    origin: dict[str, Any] = {"converted": {"from": store.location, "storage": backend.name, **cut.as_json()}}
    if parts.sources:
        # Which writer's records are of which run: answers of several runs to a question are not the same.
        origin["merged"] = parts.sources
    runs = [run if run is None or cut == Cut() else _as_cut(run, cut) for run in parts.runs]
    rewriter = _Rewriter(store, cut, chosen, backend)
    with TargetStore(target, backend.name, run_of_runs(runs), origin) as made:
        try:
            rewriter.write(made, [runs[parts.number(name)] for name in store.ledger.shards], progress)
        finally:
            warn_of_overflows(rewriter.overflows, cut)
    return rewriter.result(made)


def _as_cut(run: Mapping[str, Any], cut: Cut) -> Run:
    """Another run than the one that recorded it: that would go on with what is cut away here."""
    return {**run, "converted": [*run.get("converted", ()), cut.as_json()]}


class _Rewriter:
    def __init__(self, store: ActivationStore, cut: Cut, sites: list[str] | None, backend: StorageBackend) -> None:
        self._store = store
        self._cut = cut
        self._sites = sites
        self._backend = backend
        self._written = 0
        self.overflows: Counter[str] = Counter()

    def write(self, target: TargetStore, runs: Sequence[Run], progress: Progress | None) -> None:
        """Write every shard that the target lacks; `runs` says for each of which run its records are."""
        ledger = self._store.ledger
        sizes = [ledger.facts(name).bytes for name in ledger.shards]
        for number, name in enumerate(ledger.shards):
            records = numpy.flatnonzero(ledger.shard_numbers == number)
            records = records[numpy.argsort(ledger.indexes[records])]
            new_name = name.partition(".")[0] + self._backend.suffix
            if not target.has(new_name, len(records), range(len(records))):
                self._rewrite(target, name, new_name, records, runs[number])
            if progress is not None:
                progress(sum(sizes[: number + 1]), sum(sizes))

    def result(self, target: TargetStore) -> Rewritten:
        """What was written."""
        ledger, made = self._store.ledger, target.folder.sizes("shards")
        return Rewritten(
            location=target.folder.location,
            records=len(ledger),
            shards=len(ledger.shards),
            written=self._written,
            bytes_before=sum(ledger.facts(name).bytes for name in ledger.shards),
            bytes_after=sum(made.get(name.partition(".")[0] + self._backend.suffix, 0) for name in ledger.shards),
        )

    def _rewrite(self, target: TargetStore, name: str, new_name: str, records: Array, run: Run) -> None:
        ledger, folder = self._store.ledger, self._store.folder
        path = folder.local(f"shards/{name}")
        if file_checksum(path) != ledger.facts(name).checksum:
            # With a checksum of its own, what is made of it would look sound.
            raise FormatError(
                f"the shard {name} of {folder.location} is damaged; `actframe repair` moves it aside, then go on"
            )
        with failing(f"cannot convert the shard {name} of {folder.location}"):
            shard = Shard(read_bundle(path))
            entries = list(ledger.entries(records))
            sites = shard.sites if self._sites is None else self._sites
            cut = CutShard(shard, ledger.indexes[records], lambda: entries, self._cut, sites)
        temporary = target.temporary(new_name)
        with failing(f"cannot write the shard {new_name} of {target.folder.location}", self._backend):
            try:
                bundle, lines = cut.bundle(run)
                checksum = write_checked(self._backend, temporary, bundle)
                target.add(temporary, new_name, dict(enumerate(lines)), len(lines), checksum)
            finally:
                temporary.unlink(missing_ok=True)
        self._written += 1
        self.overflows.update(cut.overflows)
