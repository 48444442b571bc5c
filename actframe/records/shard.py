"""Shard: the records in the bundle of a shard, read as far as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from actframe.errors import FormatError, SelectionError, SiteError, nearest
from actframe.records.bundle import Bundle, LazyTensors
from actframe.records.columns import (
    FORMAT,
    LINES,
    OFFSETS,
    POSITIONS,
    PRESENT,
    PROMPT_LENGTHS,
    Ints,
    is_column,
    per_group,
)

__all__ = ["Rows", "Shard", "movable"]


@dataclass(frozen=True)
class Rows:
    """Which rows of a column some records have, at the positions that were asked for.

    Attributes:
        numbers: of the rows, in the order of the records.
        counts: how many there are of each record.
    """

    numbers: Ints
    counts: Ints


class Shard:
    """The records of one shard.

    Where the format gives no views of its tensors, a column that is read a second time is kept until the shard is let
    go, because reading a part of it may cost as much as reading it whole.

    Raises:
        FormatError: the bundle is not that of a shard, or of a version that this one does not know.
    """

    def __init__(self, bundle: Bundle) -> None:
        found = bundle.metadata.get("format")
        if found != FORMAT:
            raise FormatError(f"its format is {found!r}, and a shard's is {FORMAT!r}; a newer actframe may read it")
        try:
            self._count = int(bundle.metadata["records"])
            self._columns: dict[str, dict[str, Any]] = dict(bundle.metadata["columns"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"it does not say which records and columns it holds: {error!r}") from error
        self._tensors = LazyTensors.of(bundle.tensors)
        self._index: dict[str, Ints] = {}
        self._kept: dict[str, Tensor | None] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def sites(self) -> list[str]:
        """The sites that any of its records has."""
        return list(self._columns)

    @property
    def keeps_columns(self) -> bool:
        """Whether reading it takes memory that stays."""
        return not self._tensors.has_views

    def lines(self) -> list[bytes]:
        """What each record says but for its activations, as a line of JSON."""
        lines = self._tensors[LINES].numpy().tobytes().splitlines()
        if len(lines) != len(self):
            raise FormatError(f"it says that it holds {len(self)} records, and describes {len(lines)}")
        return lines

    def check(self) -> None:
        """Read everything, and see that it fits together.

        Raises:
            FormatError: it does not.
        """
        self.lines()
        for site in self._columns:
            if not is_column(site) or site not in self._tensors:
                raise FormatError(f"it says that it holds the site {site!r}, and does not")
            offsets, rows = self._offsets(site), len(self._tensors[site])
            if (
                len(offsets) != len(self) + 1
                or (numpy.diff(offsets) < 0).any()
                or (offsets[0], offsets[-1]) != (0, rows)
            ):
                raise FormatError(f"the {rows} rows of {site} are not those that it says its records have")

    def present(self, site: str) -> Ints:
        """For each record, whether it has a site."""
        return self._present(self._known(site))

    def shapes(self, site: str) -> list[list[int] | None] | None:
        """The shape of each record's tensor, where records differ in more than the number of rows; else None."""
        shapes: list[list[int] | None] | None = self._columns[self._known(site)].get("shapes")
        return shapes

    def dtype(self, site: str) -> torch.dtype:
        """The dtype of a site's column."""
        return self._tensors.facts(self._known(site))[0]

    def trailing(self, site: str) -> tuple[int, ...]:
        """The shape of one row of a site.

        Raises:
            SelectionError: the rows are of several shapes.
        """
        if "shapes" in self._columns[self._known(site)]:
            raise SelectionError(
                f"{site} has another shape in each record, as attention patterns do; read it record by record"
            )
        return self._tensors.facts(site)[1][1:]

    def activations(self, number: int) -> LazyTensors:
        """The tensors of one record, read when they are looked up."""
        sites = [site for site in self._columns if self._present(site)[number]]
        return LazyTensors(sites, lambda site: self._tensor(site, number))

    def find(self, site: str, records: Ints, positions: str | int | slice | list[int]) -> Rows:
        """Where the rows of some records are.

        Args:
            site: which column.
            records: numbers of records of this shard.
            positions: `"all"`, `"prompt"`, `"response"`, a slice or a list of positions: as many rows as each record
                has of them. `"last_prompt"`, `"last"` (the last row) or one position: exactly one row each.

        Raises:
            SiteError: no record here has the site.
            SelectionError: a record has no such row, or its rows were reduced and have no positions.
        """
        self.trailing(site)
        offsets = self._offsets(site)
        begins, ends = offsets[records], offsets[records + 1]
        counts = ends - begins
        # The numbers of all rows of these records, and which of the records each belongs to.
        owners = numpy.repeat(numpy.arange(len(records)), counts)
        numbers = numpy.arange(len(owners)) - numpy.repeat(numpy.cumsum(counts) - counts, counts) + begins[owners]
        if not isinstance(positions, str) or positions not in ("all", "last"):
            prompts = self._own(PROMPT_LENGTHS)[records]
            if positions in ("prompt", "response", "last_prompt") and (prompts < 0).any():
                raise SelectionError(f"some records do not say where their prompt ends, so {positions!r} means nothing")
            kept = _chosen(self._positions(site)[numbers], prompts[owners], positions)
            numbers, owners = numbers[kept], owners[kept]
            counts = numpy.bincount(owners, minlength=len(records))
        elif positions == "last":
            numbers, counts = ends[counts > 0] - 1, numpy.minimum(counts, 1)
        return Rows(numbers, counts)

    def positions(self, site: str, rows: Ints) -> Ints:
        """The absolute positions of some rows of a column; -1 where a row has no single one, as after `reduce`."""
        self.trailing(site)
        positions: Ints = self._positions(site)[rows]
        return positions

    def take(self, site: str, rows: Ints, out: Tensor) -> None:
        """Copy rows of a column into `out` `(rows, ...)`."""
        column = self._tensors.view(site) if self._tensors.has_views else self._column(site)
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (numpy.diff(rows) == 1).all():
            out.copy_(column[int(rows[0]) : int(rows[-1]) + 1])
        else:
            torch.index_select(movable(column), 0, torch.from_numpy(rows), out=movable(out))

    def _tensor(self, site: str, number: int) -> Tensor:
        start, stop = self._offsets(site)[number : number + 2].tolist()
        if site in self._kept and not self._tensors.has_views:
            rows = self._column(site)[start:stop].clone()
        else:
            self._kept.setdefault(site, None)
            rows = self._tensors.rows(site, start, stop)
        shapes = self._columns[site].get("shapes")
        return rows if shapes is None else rows.reshape(shapes[number])

    def _column(self, site: str) -> Tensor:
        column = self._kept.get(site)
        if column is None:
            column = self._kept[site] = self._tensors[site]
        return column

    def _known(self, site: str) -> str:
        if site not in self._columns or not is_column(site):
            raise SiteError(f"no site {site!r}{nearest(site, self._columns)}")
        return site

    def _offsets(self, site: str) -> Ints:
        return self._own(per_group(OFFSETS, self._columns[self._known(site)]["group"]))

    def _positions(self, site: str) -> Ints:
        return self._own(per_group(POSITIONS, self._columns[site]["group"]))

    def _present(self, site: str) -> Ints:
        name = per_group(PRESENT, self._columns[site]["group"])
        everywhere: Ints = numpy.ones(len(self), bool)
        return self._own(name) if name in self._tensors else everywhere

    def _own(self, name: str) -> Ints:
        """One of the shard's own tensors, read once."""
        if name not in self._index:
            if name not in self._tensors:
                raise FormatError(f"it lacks {name!r}, which is one of a shard's own tensors")
            values: Ints = self._tensors[name].numpy()
            self._index[name] = values
        return self._index[name]


def movable(tensor: Tensor) -> Tensor:
    """The same memory as whole numbers of the same size: of some dtypes torch picks no rows."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.itemsize)
    return tensor if whole is None else tensor.view(whole)


def _chosen(at: Ints, prompts: Ints, positions: str | int | slice | list[int]) -> Ints:
    """Which of the rows at these positions are meant; `prompts` is the length of each one's prompt."""
    if (at < 0).any():
        raise SelectionError("the rows were reduced when they were recorded and have no positions; read them as 'all'")
    if isinstance(positions, slice):
        if any(bound is not None and bound < 0 for bound in (positions.start, positions.stop)):
            raise SelectionError("a slice of stored positions counts from the beginning; negative bounds mean nothing")
        stop = numpy.inf if positions.stop is None else positions.stop
        return (at >= (positions.start or 0)) & (at < stop)
    if positions == "prompt":
        return at < prompts
    if positions == "response":
        return at >= prompts
    if positions == "last_prompt":
        last: Ints = at == prompts - 1
        return last
    return numpy.isin(at, [positions] if isinstance(positions, int) else positions)
