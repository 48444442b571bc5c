"""Making one store of several: their shards are copied as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from actframe.errors import FormatError, StorageError
from actframe.storage.checksums import file_checksum
from actframe.storage.failures import failing
from actframe.storage.folders import store_folder
from actframe.storage.identity import read_identity
from actframe.storage.keys import RecordKeys, writer_of
from actframe.storage.ledger_lines import encode_line
from actframe.storage.parts import Run, StoreParts, run_of_runs
from actframe.storage.rewriting import Rewritten
from actframe.storage.store import ActivationStore
from actframe.storage.survey import Progress
from actframe.storage.target import TargetStore

__all__ = ["merge_stores"]

_SHOWN = 3

Source = ActivationStore | Path | str


def merge_stores(sources: Sequence[Source], into: Path | str, *, progress: Progress | None = None) -> Rewritten:
    """Copy the shards of several stores into a new one, which says which of them came from where.

    What was copied stays when it ends early, whatever the reason; the same call again goes on. Parts of one run become
    that run again; of different runs the new store keeps each one's definition.

    Args:
        sources: two or more; they are not changed.
        into: a new folder or URL.
        progress: is told how many bytes are copied, of how many.

    Raises:
        StorageError: answers of one model to the same question and trial, in the same run, are in two of the stores;
            or one store is part of another; or a shard is damaged; or the disk is too small; or there is another store.
    """
    stores = [each if isinstance(each, ActivationStore) else ActivationStore(each, create=False) for each in sources]
    if len(stores) < 2:
        raise StorageError(f"merging takes two stores or more, and not {len(stores)}")
    for number, store in enumerate(stores):
        if store.location in [other.location for other in stores[:number]]:
            raise StorageError(f"{store.location} is given twice; its records would be there twice")
    _check_shards(stores)
    runs, origin = _sources(stores)
    _check_keys(stores, RecordKeys({"merged": origin}))
    _check_room(stores, into)
    with TargetStore(into, stores[0].backend, run_of_runs(runs), {"merged": origin}) as target:
        written, done, total = 0, 0, sum(size for store in stores for _, size in _shards(store))
        for store in stores:
            for name, size in _shards(store):
                written += _copy(store, name, target)
                done += size
                if progress is not None:
                    progress(done, total)
    return Rewritten(
        location=target.folder.location,
        records=sum(map(len, stores)),
        shards=sum(len(store.ledger.shards) for store in stores),
        written=written,
        bytes_before=total,
        bytes_after=total,
    )


def _copy(store: ActivationStore, name: str, target: TargetStore) -> bool:
    """Copy one shard and its lines; False if it is there already."""
    ledger = store.ledger
    records = numpy.flatnonzero(ledger.shard_numbers == ledger.shards.index(name))
    records = records[numpy.argsort(ledger.indexes[records])]
    facts = ledger.facts(name)
    committed = ledger.indexes[records].tolist()
    if target.has(name, facts.records, committed):
        return False
    temporary = target.temporary(name)
    with failing(f"cannot copy the shard {name} of {store.location}"):
        try:
            shutil.copyfile(store.folder.local(f"shards/{name}"), temporary)
            if file_checksum(temporary) != facts.checksum:
                raise FormatError(f"it is damaged; `actframe repair {store.location}` moves it aside, then go on")
            lines = zip(committed, map(encode_line, ledger.entries(records)), strict=True)
            target.add(temporary, name, dict(lines), facts.records, facts.checksum)
        finally:
            temporary.unlink(missing_ok=True)
    return True


def _shards(store: ActivationStore) -> Iterator[tuple[str, int]]:
    for name in store.ledger.shards:
        yield name, store.ledger.facts(name).bytes


def _sources(stores: Sequence[ActivationStore]) -> tuple[list[Run], list[dict[str, Any]]]:
    """The runs of some stores, and which writers' records are of which; of a store that was merged, part by part."""
    runs: dict[str, Run] = {}
    sources = []
    for store in stores:
        parts = StoreParts(read_identity(store.folder))
        counts = numpy.bincount(store.ledger.shard_numbers, minlength=len(store.ledger.shards)).tolist()
        for number, run in enumerate(parts.runs):
            runs.setdefault(json.dumps(run, sort_keys=True), run)
            shards = {n: name for n, name in enumerate(store.ledger.shards) if parts.number(name) == number}
            source = {
                "from": store.location,
                "run": list(runs).index(json.dumps(run, sort_keys=True)),
                "records": sum(counts[n] for n in shards),
                "writers": sorted(set(map(writer_of, shards.values()))),
            }
            sources.append(source)
    return list(runs.values()), sources


def _check_shards(stores: Sequence[ActivationStore]) -> None:
    """Refuse stores that are copies of one another, whatever their records say."""
    owners: dict[str, ActivationStore] = {}
    for store in stores:
        for name in store.ledger.shards:
            other = owners.setdefault(name.partition(".")[0], store)
            if other is not store:
                raise StorageError(
                    f"{other.location} and {store.location} both hold the shard {name.partition('.')[0]}: one is "
                    f"made of the other, and its records would be there twice"
                )


def _check_keys(stores: Sequence[ActivationStore], keys: RecordKeys) -> None:
    """Refuse answers to the same question, of the same model in the same run."""
    owners: dict[Any, ActivationStore] = {}
    twice: dict[tuple[str, str], list[str]] = {}
    for store in stores:
        if not len(store):
            continue
        shards = (store.ledger.shards[number] for number in store.ledger.shard_numbers.tolist())
        for shard, *said in zip(shards, *map(store.ledger.column, keys.PARTS), strict=True):
            key = keys.of(shard, *said)
            other = store if key is None else owners.setdefault(key, store)
            if other is not store:
                twice.setdefault((other.location, store.location), []).append(f"{said[0]} (trial {said[1]})")
    for (first, second), names in twice.items():
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise StorageError(
            f"{first} and {second} hold {len(names)} answers of one model, in one run, to the same questions: {shown}; "
            f"they would be there twice"
        )


def _check_room(stores: Sequence[ActivationStore], into: Path | str) -> None:
    folder = store_folder(into)
    free, there = folder.free_bytes(), sum(folder.sizes("shards").values())
    needed = sum(store.bytes_on_disk for store in stores) - there
    if free is not None and needed > free:
        raise StorageError(f"the stores take {needed} bytes more in {folder.location}, and {free} are free there")
