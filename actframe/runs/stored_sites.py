"""Which sites a store holds, and how large their tensors are, without reading them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy

from actframe.errors import ActframeError
from actframe.records.bundle import LazyTensors
from actframe.records.shard import Shard
from actframe.storage.cutting import is_pattern
from actframe.storage.files import read_bundle
from actframe.storage.folders import LocalFolder
from actframe.storage.store import ActivationStore

__all__ = ["StoredSite", "StoredSites", "stored_sites"]

MOST_SHARDS = 64
"""Of more shards than this, some are looked at."""

MOST_SECONDS = 3.0
"""After so long no further shard is looked into: there are formats that say no shape before all is read."""

MOST_REMOTE_BYTES = 64 << 20
"""Looking into a shard behind a URL is fetching it."""


@dataclass
class StoredSite:
    """One site.

    Attributes:
        site: its name.
        shape: of one record's tensor; an axis that differs from record to record is `"pos"`.
        dtype: of its values; several where shards differ.
        records: how many records have it.
        rows: how many rows these have in all.
        bytes: the size of its values.
    """

    site: str
    shape: list[int | str]
    dtype: str
    records: int = 0
    rows: int = 0
    bytes: int = 0


@dataclass
class StoredSites:
    """The sites of a store.

    Attributes:
        sites: one after the other.
        looked_at: in how many shards. Where these are not all of them, counts and sizes are estimates.
        shards: how many there are.
        unreadable: why the first shard could not be read that could not.
    """

    shards: int
    looked_at: int = 0
    unreadable: str | None = None
    sites: list[StoredSite] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The size of all tensors."""
        return sum(site.bytes for site in self.sites)


def stored_sites(store: ActivationStore) -> StoredSites:
    """Look into the shards of a store: into all of them, or some that are spread evenly."""
    found = StoredSites(len(store.ledger.shards))
    by_name: dict[str, StoredSite] = {}
    records, begun = 0, time.monotonic()
    for name in _chosen(store):
        try:
            bundle = read_bundle(store.folder.local(f"shards/{name}"))
            shard, tensors = Shard(bundle), LazyTensors.of(bundle.tensors)
            for site in shard.sites:
                _add(by_name, site, shard, tensors)
        except ActframeError as error:
            found.unreadable = found.unreadable or str(error)
            continue
        found.looked_at += 1
        records += len(shard)
        if time.monotonic() - begun > MOST_SECONDS:
            break
    found.sites = list(by_name.values())
    if records and found.looked_at < found.shards:
        for each in found.sites:
            for what in ("records", "rows", "bytes"):
                setattr(each, what, round(getattr(each, what) * len(store) / records))
    return found


def _chosen(store: ActivationStore) -> list[str]:
    names = store.ledger.shards
    if not isinstance(store.folder, LocalFolder):
        small = [name for name in names if store.ledger.facts(name).bytes <= MOST_REMOTE_BYTES]
        return small[:1]
    places = numpy.unique(numpy.linspace(0, len(names) - 1, min(len(names), MOST_SHARDS)).round().astype(int))
    return [names[place] for place in places.tolist()]


def _add(found: dict[str, StoredSite], site: str, shard: Shard, tensors: LazyTensors) -> None:
    dtype, stored = tensors.facts(site)
    name, size = str(dtype).removeprefix("torch."), dtype.itemsize * int(numpy.prod(stored, dtype=numpy.int64))
    shape, records, rows = _shape(site, shard)
    known = found.setdefault(site, StoredSite(site, shape, name))
    if len(known.shape) == len(shape):
        known.shape = [a if a == b else "pos" for a, b in zip(known.shape, shape, strict=True)]
    if name not in known.dtype.split(", "):
        known.dtype += f", {name}"
    known.records += records
    known.rows += rows
    known.bytes += size


def _shape(site: str, shard: Shard) -> tuple[list[int | str], int, int]:
    """The shape of a record's tensor, how many records have one, and how many rows these have."""
    shapes = shard.shapes(site)
    if shapes is None:
        counts = shard.find(site, numpy.arange(len(shard)), "all").counts
        there = counts[shard.present(site)]
        return [_same(there.tolist()), *shard.trailing(site)], len(there), int(there.sum())
    present = [shape for shape in shapes if shape is not None]
    if len({len(shape) for shape in present}) != 1:
        return ["pos"], len(present), len(present)
    axis = int(is_pattern(site))
    rows = sum(shape[axis] if len(shape) > axis else 1 for shape in present)
    return [_same(list(sizes)) for sizes in zip(*present, strict=True)], len(present), rows


def _same(sizes: list[Any]) -> int | str:
    return int(sizes[0]) if len(set(sizes)) == 1 else "pos"
