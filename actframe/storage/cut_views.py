"""CutView: records of a store, cut, in pieces that fit into memory: what exports are made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy
import torch

from actframe.errors import SelectionError
from actframe.storage.cutting import Cut, CutShard, is_pattern
from actframe.storage.failures import failing
from actframe.storage.ledger_files import Array
from actframe.storage.survey import Progress
from actframe.storage.view import StoreView

__all__ = ["CutView", "Piece", "SiteFacts"]

PIECE_BYTES = 32 << 20

_KEPT_AS_THEY_ARE = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class SiteFacts:
    """What the tensors of a site are like, in all records.

    Attributes:
        dtype: of the values.
        trailing: the shape of one row; None where records differ in more than the number of rows.
    """

    dtype: torch.dtype
    trailing: tuple[int, ...] | None

    @property
    def stored(self) -> torch.dtype:
        """What other programs get: the same, or float32, which holds every value of the smaller floating dtypes."""
        return torch.float32 if self.dtype.is_floating_point and self.dtype not in _KEPT_AS_THEY_ARE else self.dtype

    @property
    def numpy_dtype(self) -> numpy.dtype[Any]:
        """The same as NumPy names it."""
        return torch.empty(0, dtype=self.stored).numpy().dtype

    @property
    def width(self) -> int:
        """How many values a row has."""
        return math.prod(self.trailing or ())

    def as_json(self) -> dict[str, Any]:
        """What a reader needs to know to make these values of what is in the file."""
        dtype, stored = (str(each).removeprefix("torch.") for each in (self.dtype, self.stored))
        return {"dtype": dtype, "stored_as": stored, "shape": None if self.trailing is None else list(self.trailing)}


class Piece:
    """Some records that stand together in a view and in a shard, cut.

    Args:
        shard: the name of the shard.
        cut: its records.
        sites: all sites of the view.
    """

    def __init__(self, shard: str, cut: CutShard, sites: dict[str, SiteFacts]) -> None:
        self._shard = shard
        self._cut = cut
        self._sites = sites

    def __len__(self) -> int:
        return len(self._cut)

    @property
    def said(self) -> list[dict[str, Any]]:
        """What the records say."""
        return self._cut.said

    def shapes(self, site: str) -> list[tuple[int, ...] | None]:
        """The shape of each record's tensor; None for records without the site."""
        return self._cut.shapes(site) if site in self._cut.sites else [None] * len(self)

    def counts(self, site: str) -> Array:
        """How many rows of a site each record has, or values where its rows are of several shapes."""
        is_regular = self._sites[site].trailing is not None
        sizes = (0 if shape is None else shape[0] if is_regular else math.prod(shape) for shape in self.shapes(site))
        return numpy.fromiter(sizes, numpy.int64, len(self))

    def positions(self, site: str) -> Array:
        """The absolute position of each row, -1 for those without one; none where rows are of several shapes."""
        positions = self._cut.positions(site) if site in self._cut.sites else None
        return numpy.empty(0, numpy.int32) if positions is None else positions

    def values(self, site: str) -> Array:
        """`(rows, ...)`: the rows of all records one after the other; flat where they are of several shapes.

        Raises:
            StorageError: the shard cannot be read.
        """
        facts = self._sites[site]
        if site not in self._cut.sites:
            values = torch.empty(0, *(facts.trailing or ()), dtype=facts.stored)
        else:
            with _reading(self._shard, site):
                values = self._cut.read(site).to(facts.stored)
        array: Array = values.numpy()
        return array if facts.trailing is not None else array.reshape(-1)


class CutView:
    """Some records, and what is kept of them.

    Attributes:
        view: the records.
        cut: what is kept.
        sites: the sites, and what they are like.
        overflows: by site, how many values did not fit the dtype, of those that were read so far.

    Raises:
        SelectionError: there are no records, or none has activations, or their dtypes differ.
        SiteError: no record has a site that was asked for.
    """

    def __init__(self, view: StoreView, cut: Cut) -> None:
        self.view = view
        self.cut = cut
        self.overflows: Counter[str] = Counter()
        if not len(view):
            raise SelectionError("there are no records to export")
        found = self._survey()
        names = cut.choose(list(found), f"the store {view.shards.location}")
        if not names:
            raise SelectionError("the records have no activations to export")
        self.sites = {name: _common(name, found[name]) for name in names}

    def __len__(self) -> int:
        return len(self.view)

    @property
    def is_one_row_each(self) -> bool:
        """Whether exactly one row of each record is meant."""
        return self.cut.is_one_row

    def as_json(self) -> dict[str, Any]:
        """What a reader of the export may want to know."""
        sites = {site: facts.as_json() for site, facts in self.sites.items()}
        said = {"actframe_version": metadata.version("actframe"), "from": self.view.shards.location}
        return {**said, "cut": self.cut.as_json(), "sites": sites}

    def pieces(self, progress: Progress | None = None, sites: Iterable[str] | None = None) -> Iterator[Piece]:
        """The records in their order, some at a time.

        Args:
            progress: is told how many bytes of the shards are done.
            sites: only these are read, of those that the view has.

        Raises:
            StorageError: a shard cannot be read.
            SelectionError: a record has no such position.
        """
        wanted = list(self.sites if sites is None else sites)
        ledger, numbers = self.view.ledger, self.view.numbers
        sizes = self._bytes_per_record()
        done = 0.0
        for start, stop in self._runs(sizes, len(wanted)):
            name = ledger.shards[ledger.shard_numbers[numbers[start]]]
            piece = self._cut(name, numbers[start:stop], wanted)
            yield Piece(name, piece, self.sites)
            self.overflows.update(piece.overflows)
            done += sizes[start:stop].sum()
            if progress is not None:
                progress(round(done), round(sizes.sum()))

    def _cut(self, name: str, records: Array, sites: list[str]) -> CutShard:
        ledger = self.view.ledger
        shard = self.view.shards.get(name)
        with _reading(name):
            return CutShard(shard, ledger.indexes[records], lambda: list(ledger.entries(records)), self.cut, sites)

    def _runs(self, sizes: Array, sites: int) -> Iterator[tuple[int, int]]:
        """Where records of one shard stand together, in parts that are not too large."""
        ledger = self.view.ledger
        owners: Array = ledger.shard_numbers[self.view.numbers]
        begins = [0, *(numpy.flatnonzero(numpy.diff(owners)) + 1).tolist(), len(owners)]
        for begin, end in pairwise(begins):
            shard = self.view.shards.get(ledger.shards[owners[begin]])
            step = max(1, int(PIECE_BYTES * max(1, len(shard.sites)) / max(1.0, sizes[begin] * sites)))
            for start in range(begin, end, step):
                yield start, min(end, start + step)

    def _bytes_per_record(self) -> Array:
        """For each record, its part of its shard's file."""
        ledger = self.view.ledger
        facts = map(ledger.facts, ledger.shards)
        each = numpy.array([facts.bytes / max(1, facts.records) for facts in facts])
        sizes: Array = each[ledger.shard_numbers[self.view.numbers]]
        return sizes

    def _survey(self) -> dict[str, dict[SiteFacts, str]]:
        """What each site is like, and the first shard where it is like that."""
        found: dict[str, dict[SiteFacts, str]] = {}
        ledger = self.view.ledger
        for number in dict.fromkeys(ledger.shard_numbers[self.view.numbers].tolist()):
            name = ledger.shards[number]
            shard = self.view.shards.get(name)
            with _reading(name):
                for site in shard.sites:
                    own = shard.dtype(site)
                    dtype = self.cut.dtype if self.cut.dtype is not None and own.is_floating_point else own
                    assert isinstance(dtype, torch.dtype)
                    irregular = is_pattern(site) or shard.shapes(site) is not None
                    facts = SiteFacts(dtype, None if irregular else shard.trailing(site))
                    found.setdefault(site, {}).setdefault(facts, name)
        return found


def _common(site: str, found: dict[SiteFacts, str]) -> SiteFacts:
    """What a site is like in all shards."""
    dtypes: dict[torch.dtype, str] = {}
    for facts, shard in found.items():
        dtypes.setdefault(facts.dtype, shard)
    if len(dtypes) > 1:
        (one, first), (other, second) = list(dtypes.items())[:2]
        raise SelectionError(
            f"the values of {site} are {one} in {first}, and {other} in {second}; "
            f"choose a dtype for all, or records with where(model=...)"
        )
    (dtype,) = dtypes
    if dtype.is_complex:
        raise SelectionError(f"the values of {site} are {dtype}, which cannot be exported; choose other sites")
    shapes = {facts.trailing for facts in found}
    return SiteFacts(dtype, shapes.pop() if len(shapes) == 1 else None)


def _reading(shard: str, site: str = "") -> Any:
    return failing(f"cannot read {site and site + ' of '}the shard {shard}", after="; try `actframe verify`")
