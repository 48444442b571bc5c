"""Cutting stored records: fewer sites, fewer positions, another dtype, shard by shard and column by column."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypedDict

import numpy
import torch
from torch import Tensor

from actframe.capture.selection import Selection, count_overflows
from actframe.capture.sites import GRADIENT, narrow_places, summarise
from actframe.errors import SelectionError
from actframe.records.bundle import Bundle, LazyTensors
from actframe.records.columns import LINES, Ints, ShardColumns
from actframe.records.packing import json_safe
from actframe.records.shard import Shard
from actframe.storage.files import matching_sites
from actframe.storage.ledger_lines import encode_line
from actframe.storage.stacking import StackPositions, check_positions

__all__ = ["Cut", "CutSettings", "CutShard", "is_pattern", "warn_of_overflows"]

Shape = tuple[int, ...]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cut:
    """What is kept of stored records.

    Attributes:
        sites: names, patterns, layer numbers; None for all.
        positions: as in `ActivationStore.stack`: `"all"` that are stored, `"prompt"`, `"response"`, `"last_prompt"`,
            `"last"`, one position, a slice or a list of them, counted from 0.
        dtype: what floating tensors are cast to; None keeps them as they are.

    Raises:
        SelectionError: a value that means nothing.
    """

    sites: str | int | Sequence[str | int] | None = None
    positions: StackPositions = "all"
    dtype: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        check_positions(self.positions)
        object.__setattr__(self, "dtype", Selection(sites=self.sites, dtype=self.dtype).dtype)

    @property
    def is_one_row(self) -> bool:
        """Whether exactly one row of each record is meant."""
        return isinstance(self.positions, int) or self.positions in ("last_prompt", "last")

    def choose(self, available: list[str], where: str) -> list[str]:
        """The sites that are kept of those that there are.

        Raises:
            SiteError: one that is asked for is not there.
        """
        if self.sites is None:
            return available
        return matching_sites([self.sites] if isinstance(self.sites, str | int) else self.sites, available, where)

    def as_json(self) -> dict[str, Any]:
        """The cut in JSON-safe form."""
        positions: Any = self.positions
        if isinstance(positions, slice):
            positions = f"{positions.start or ''}:{'' if positions.stop is None else positions.stop}"
        sites = self.sites if self.sites is None or isinstance(self.sites, str | int) else list(self.sites)
        dtype = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        return {"sites": sites, "positions": positions, "dtype": dtype}


class CutSettings(TypedDict, total=False):
    """The arguments of a `Cut`, for functions that pass them on."""

    sites: str | int | Sequence[str | int] | None
    positions: StackPositions
    dtype: torch.dtype | str | None


@dataclass(frozen=True)
class _Column:
    """What is left of one site.

    Attributes:
        dtype: of its values as they are stored.
        shapes: of each record's tensor; None for records without the site.
        read: gives the values.
        rows: which rows of the shard's column these are; None where records are of several shapes.
    """

    dtype: torch.dtype
    shapes: list[Shape | None]
    read: Callable[[], Tensor]
    rows: Ints | None = None


class CutShard:
    """Some records of a shard, cut.

    Args:
        shard: which.
        records: the numbers of the records, ascending.
        entries: gives what these records say; asked once, and only where that matters.
        cut: what is kept of them.
        sites: the sites that are kept; those that none of the records has are left out.

    Attributes:
        overflows: by site, how many values did not fit the dtype, of the columns that were read.

    Raises:
        SelectionError: a record has no row of the positions, or its rows were reduced and have none.
    """

    def __init__(
        self, shard: Shard, records: Ints, entries: Callable[[], Sequence[Record]], cut: Cut, sites: Iterable[str]
    ) -> None:
        self._shard = shard
        self._records = records
        self._read_entries = entries
        self._cut = cut
        self._wanted = list(sites)
        self._columns = {site: self._column_of(site) for site in self._wanted if site in shard.sites}
        self._columns = {s: column for s, column in self._columns.items() if set(column.shapes) - {None}}
        self.overflows: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def said(self) -> list[dict[str, Any]]:
        """What the records say now."""
        return [self._say(entry, set(self._wanted)) for entry in self._entries]

    @property
    def sites(self) -> list[str]:
        """The sites that are left."""
        return list(self._columns)

    def shapes(self, site: str) -> list[Shape | None]:
        """The shape of each record's tensor; None for records without the site."""
        return self._columns[site].shapes

    def positions(self, site: str) -> Ints | None:
        """The absolute position of each row, -1 for those without one; None where records are of several shapes."""
        rows = self._columns[site].rows
        return None if rows is None else self._shard.positions(site, rows)

    def dtype(self, site: str) -> torch.dtype:
        """The dtype of what `read` gives."""
        own = self._columns[site].dtype
        return self._cut.dtype if isinstance(self._cut.dtype, torch.dtype) and own.is_floating_point else own

    def read(self, site: str) -> Tensor:
        """The values of a site: rows of all records one after the other; flat where they are of several shapes."""
        values = self._columns[site].read()
        dtype = self.dtype(site)
        if values.dtype != dtype:
            if lost := count_overflows(values, dtype):
                self.overflows[site] = lost
            values = values.to(dtype)
        return values

    def bundle(self, run: Mapping[str, Any] | None = None) -> tuple[Bundle, list[bytes]]:
        """The bundle of a new shard, whose columns are read when they are written, and its lines."""
        columns = ShardColumns()
        for number, said in enumerate(self.said):
            shapes = {site: column.shapes[number] for site, column in self._columns.items()}
            # Of a tensor, no more than dtype and shape are noted.
            present = {site: shape for site, shape in shapes.items() if shape is not None}
            columns.add({site: _stand_in(shape, self.dtype(site)) for site, shape in present.items()}, said)
        index = columns.index()
        lines = [encode_line(said) for said in self.said]
        own = {**index.tensors, LINES: torch.frombuffer(bytearray(b"".join(lines)), dtype=torch.uint8)}

        def load(name: str) -> Tensor:
            return own[name] if name in own else self.read(name).reshape(columns.facts(name)[1])

        def facts(name: str) -> tuple[torch.dtype, Shape]:
            return (own[name].dtype, tuple(own[name].shape)) if name in own else columns.facts(name)

        metadata = {**index.metadata, **({} if run is None else {"run": run})}
        return Bundle(LazyTensors([*columns.sites, *own], load, facts=facts), json_safe(metadata)), lines

    @cached_property
    def _entries(self) -> Sequence[Record]:
        return self._read_entries()

    def _column_of(self, site: str) -> _Column:
        there = self._shard.present(site)[self._records].tolist()
        flat, dtype = self._shard.shapes(site), self._shard.dtype(site)
        rows = None if flat else self._shard.find(site, self._records, "all")
        if rows is None or is_pattern(site):
            counts = zip(self._records.tolist(), rows.counts if rows else there, strict=True)
            shapes = [
                tuple(flat[n] or ()) if flat else (int(count), *self._shard.trailing(site)) for n, count in counts
            ]
            return self._column_of_records(
                site, [shape if here else None for shape, here in zip(shapes, there, strict=True)]
            )
        if self._cut.positions != "all":
            stored, rows = rows, self._shard.find(site, self._records, self._cut.positions)
            are_known = not (self._shard.positions(site, stored.numbers) < 0).any()
            self._check_rows(site, are_known, stored.counts, rows.counts)
        trailing, numbers = self._shard.trailing(site), rows.numbers

        def read() -> Tensor:
            out = torch.empty((len(numbers), *trailing), dtype=dtype)
            self._shard.take(site, numbers, out)
            return out

        counts = zip(rows.counts.tolist(), there, strict=True)
        return _Column(dtype, [(count, *trailing) if here else None for count, here in counts], read, numbers)

    def _column_of_records(self, site: str, shapes: list[Shape | None]) -> _Column:
        """A column that is cut record by record: of several shapes, or with the positions not on the first axis."""
        axis = int(is_pattern(site))
        kept: dict[int, list[int]] = {}
        if self._cut.positions != "all":
            lengths = numpy.array([0 if shape is None else (*shape, 0, 0)[axis] for shape in shapes])
            kept = {n: self._kept(_positions_of(entry, site), entry) for n, entry in enumerate(self._entries)}
            positions = numpy.array([len(_positions_of(entry, site)) for entry in self._entries])
            counts = numpy.array([len(kept[n]) for n in range(len(shapes))]) * (lengths > 0)
            self._check_rows(site, (lengths == positions)[lengths > 0].all(), lengths, counts)
            for number, shape in enumerate(shapes):
                if shape is not None:
                    shapes[number] = (*shape[:axis], len(kept[number]), *shape[axis + 1 :])

        def read() -> Tensor:
            pieces = [torch.empty(0, dtype=self._shard.dtype(site))]
            for number, shape in enumerate(shapes):
                if shape is not None:
                    tensor = self._shard.activations(int(self._records[number]))[site]
                    if number in kept:
                        tensor = tensor.index_select(axis, torch.tensor(kept[number], dtype=torch.int64))
                    pieces.append(tensor.reshape(-1))
            return torch.cat(pieces)

        return _Column(self._shard.dtype(site), shapes, read)

    def _check_rows(self, site: str, are_known: bool, stored: Ints, counts: Ints) -> None:
        """See that rows have known positions, and that each record has its row where exactly one is meant."""
        if not are_known:
            raise SelectionError(
                f"the rows of {site} were reduced when they were recorded, or do not say their positions; "
                f"keep 'all' that are stored"
            )
        lacking = int((counts[stored > 0] != 1).sum()) if self._cut.is_one_row else 0
        if lacking:
            raise SelectionError(
                f"{lacking} of {len(stored)} records have no row of {site} for position {self._cut.positions!r}; "
                f"'all' keeps the rows that are stored, and --sites leaves the site out"
            )

    def _kept(self, positions: Sequence[int], said: Record) -> list[int]:
        """Which of some positions of a record stay, by their place among them."""
        wanted, prompt = self._cut.positions, said.get("prompt_length")
        if wanted in ("all", "last"):
            return list(range(len(positions)))[0 if wanted == "all" else -1 :]
        if isinstance(wanted, slice):
            within = range(wanted.start or 0, 2**31 if wanted.stop is None else wanted.stop)
            return [place for place, position in enumerate(positions) if position in within]
        if isinstance(wanted, int | list):
            listed = {wanted} if isinstance(wanted, int) else set(wanted)
            return [place for place, position in enumerate(positions) if position in listed]
        if prompt is None:
            raise SelectionError(f"some records do not say where their prompt ends, so {wanted!r} means nothing")
        bounds = {"prompt": range(prompt), "response": range(prompt, 2**31), "last_prompt": range(prompt - 1, prompt)}
        return [place for place, position in enumerate(positions) if position in bounds[wanted]]

    def _say(self, entry: Record, wanted: set[str]) -> dict[str, Any]:
        """What a record says of itself after the cut."""
        said = dict(entry)
        if isinstance(sites := said.get("sites"), list):
            said["sites"] = [site for site in sites if site in wanted]
        if isinstance(places := said.get("places"), dict):
            said["places"] = narrow_places(places, wanted)
        places = {site: at for site, at in (said.get("site_positions") or {}).items() if site in wanted}
        if self._cut.positions != "all":
            cut = {site: [at[place] for place in self._kept(at, entry)] for site, at in places.items()}
            if said.get("positions") is not None:
                said["positions"] = [said["positions"][place] for place in self._kept(said["positions"], entry)]
            places = {site: at for site, at in cut.items() if at != said.get("positions")}
        if said.get("site_positions") is not None:
            said["site_positions"] = places
        return said


def warn_of_overflows(overflows: Mapping[str, int], cut: Cut) -> None:
    """Warn of values that did not fit the dtype of a cut, by site; it names the caller of who calls this."""
    if overflows:
        warnings.warn(
            f"{sum(overflows.values())} values of {summarise(list(overflows))} do not fit {cut.dtype} and became "
            f"infinite or were clipped",
            RuntimeWarning,
            stacklevel=3,
        )


def is_pattern(site: str) -> bool:
    """Whether a site's tensors are `(head, pos, key)`."""
    return site.removesuffix(GRADIENT).endswith("attn_probs")


def _positions_of(said: Record, site: str) -> list[int]:
    """The positions of a site's rows, as a record says them."""
    odd: Mapping[str, list[int]] = said.get("site_positions") or {}
    return odd.get(site, said.get("positions") or [])


@lru_cache
def _stand_in(shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
