"""One site of many records in one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from actframe.capture.sites import canonical, summarise
from actframe.errors import SelectionError, SiteError
from actframe.records.shard import Rows, Shard, movable
from actframe.storage.failures import failing
from actframe.storage.ledger import Ledger
from actframe.storage.open_shards import OpenShards

__all__ = ["Numbers", "Ragged", "StackPositions", "stack"]

Numbers = numpy.ndarray[tuple[int], numpy.dtype[Any]]
StackPositions = Literal["all", "prompt", "response", "last_prompt", "last"] | int | slice | list[int]

_SEVERAL = ("all", "prompt", "response")
_ONE = ("last_prompt", "last")


@dataclass(frozen=True)
class Ragged:
    """Rows of many records, of each as many as it has.

    Attributes:
        values: `(rows, d_model)`, one record's after the other's.
        offsets: int64 `(n + 1,)`: record i has the rows `offsets[i]` to `offsets[i + 1]`.
    """

    values: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Tensor:
        """The rows of one record, `(rows, d_model)`, a view of `values`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        start, stop = self.offsets[index % len(self) : index % len(self) + 2].tolist()
        return self.values[start:stop]


@dataclass(frozen=True)
class _Part:
    """The rows of one shard.

    Attributes:
        shard: its name.
        at: where its records are among all that are asked for.
        rows: which rows of the column.
    """

    shard: str
    at: Numbers
    rows: Rows


def stack(
    ledger: Ledger, shards: OpenShards, numbers: Numbers, site: str | int, positions: StackPositions
) -> Tensor | Ragged:
    """As `StoreView.stack`, of the records with these numbers."""
    name = f"layer_{site}" if isinstance(site, int) else canonical(site)
    check_positions(positions)
    if not len(numbers):
        raise SelectionError(f"there are no records to stack {name!r} of")
    parts = _find(ledger, shards, numbers, name, positions)
    counts = numpy.zeros(len(numbers), numpy.int64)
    for part in parts:
        counts[part.at] = part.rows.counts
    one_each = isinstance(positions, int) or (isinstance(positions, str) and positions in _ONE)
    if one_each and (counts != 1).any():
        lacking = int((counts != 1).sum())
        raise SelectionError(
            f"{lacking} of {len(numbers)} records have no row of {name} for position {positions!r}; "
            f"positions='all' gives the rows that are stored"
        )
    offsets = numpy.concatenate(([0], numpy.cumsum(counts)))
    values = _read(shards, parts, offsets, name)
    return values if one_each else Ragged(values, torch.from_numpy(offsets))


def check_positions(positions: Any) -> None:
    """Raise a SelectionError for what does not say which positions are meant."""
    if isinstance(positions, str) and positions not in _SEVERAL + _ONE:
        raise SelectionError(
            f"no positions {positions!r}; there are {', '.join(_SEVERAL + _ONE)}, a position, a slice, or a list of int"
        )
    listed = isinstance(positions, list) and all(type(position) is int and position >= 0 for position in positions)
    number = type(positions) is int and positions >= 0
    if not (isinstance(positions, str | slice) or number or listed):
        raise SelectionError(
            f"stored positions count from 0, and {positions!r} is not one, nor a list or slice of them"
        )
    if isinstance(positions, slice):
        _check_slice(positions)


def _check_slice(positions: slice) -> None:
    bounds = [bound for bound in (positions.start, positions.stop) if bound is not None]
    if any(type(bound) is not int or bound < 0 for bound in bounds):
        raise SelectionError("a slice of stored positions counts from the beginning; negative bounds mean nothing")
    if positions.step not in (None, 1):
        raise SelectionError(f"a slice of stored positions has no step, and {positions!r} has one; list the positions")


def _find(ledger: Ledger, shards: OpenShards, numbers: Numbers, site: str, positions: StackPositions) -> list[_Part]:
    """The rows in each shard; the shards in the order of their first record."""
    owners = ledger.shard_numbers[numbers]
    indexes = ledger.indexes[numbers]
    used, firsts = numpy.unique(owners, return_index=True)
    parts = []
    for owner in used[numpy.argsort(firsts)].tolist():
        at = numpy.flatnonzero(owners == owner)
        shard_name = ledger.shards[owner]
        shard = shards.get(shard_name)
        try:
            rows = shard.find(site, indexes[at], positions)
        except SiteError as error:
            raise SiteError(f"{error} in the shard {shard_name}; it holds {summarise(shard.sites)}") from None
        if lacking := int((~shard.present(site)[indexes[at]]).sum()):
            raise SiteError(f"{lacking} of {len(at)} records of the shard {shard_name} have no site {site!r}")
        parts.append(_Part(shard_name, at, rows))
    return parts


def _read(shards: OpenShards, parts: list[_Part], offsets: Numbers, site: str) -> Tensor:
    """All rows in one tensor, each record's where its offset says."""
    first = shards.get(parts[0].shard)
    dtype, trailing = first.dtype(site), first.trailing(site)
    out = torch.empty((int(offsets[-1]), *trailing), dtype=dtype)
    for part in parts:
        shard = shards.get(part.shard)
        _check_alike(shard, part.shard, site, dtype, trailing)
        with failing(f"cannot read {site} of the shard {part.shard}", after="; try `actframe verify`"):
            begin, end = int(offsets[part.at[0]]), int(offsets[part.at[-1] + 1])
            if end - begin == len(part.rows.numbers):
                shard.take(site, part.rows.numbers, out[begin:end])
                continue
            # Records of other shards stand between these.
            own = torch.empty((len(part.rows.numbers), *trailing), dtype=dtype)
            shard.take(site, part.rows.numbers, own)
            counts = part.rows.counts
            starts = numpy.repeat(offsets[part.at] - (numpy.cumsum(counts) - counts), counts)
            movable(out)[torch.from_numpy(starts + numpy.arange(len(own)))] = movable(own)
    return out


def _check_alike(shard: Shard, name: str, site: str, dtype: torch.dtype, trailing: tuple[int, ...]) -> None:
    if shard.dtype(site) != dtype or shard.trailing(site) != trailing:
        raise SelectionError(
            f"rows of {site} are {trailing} of {dtype} in some shards, and {shard.trailing(site)} of "
            f"{shard.dtype(site)} in {name}: they come from different models or settings; choose with where(model=...)"
        )
