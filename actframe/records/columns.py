"""Records <-> shards: many records in one bundle, with one tensor for each site.

The bundle of a shard holds, beside a column for each site, which is the rows of all its records one after the other:

    actframe.records          uint8: what each record says but for its activations, one line of JSON for each
    actframe.prompt_lengths   int32 `(records,)`; -1 where a record does not say
    actframe.offsets.<k>      int64 `(records + 1,)`: record i has the rows offsets[i] to offsets[i + 1] of group k
    actframe.positions.<k>    int32 `(rows,)`: the absolute position of each row; -1 where it has no single one
    actframe.present.<k>      bool `(records,)`, only where some records lack the sites of group k

A group is those sites that have the same rows, at the same positions, in every record. The metadata is `"format":
"shard/1"`, `"records"` (how many), and `"columns"`: for each site its `"group"`, and, where records differ in more
than the number of rows, their `"shapes"`: such a column is flat, and its offsets count elements. Shards of a run
have its definition as `"run"`.
"""

from __future__ import annotations

import array
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from actframe.records.bundle import Bundle

__all__ = ["FORMAT", "LINES", "PROMPT_LENGTHS", "ShardColumns", "is_column", "per_group"]

FORMAT = "shard/1"
LINES = "actframe.records"
PROMPT_LENGTHS = "actframe.prompt_lengths"
OFFSETS, POSITIONS, PRESENT = "actframe.offsets", "actframe.positions", "actframe.present"

Shape = tuple[int, ...]
Ints = numpy.ndarray[tuple[int], numpy.dtype[Any]]

ABSENT = -1


def is_column(name: str) -> bool:
    """Whether a shard's tensor is a site's column: everything but the shard's own tensors."""
    return not name.startswith("actframe.")


def per_group(kind: str, group: int) -> str:
    """The name of a group's tensor."""
    return f"{kind}.{group}"


@dataclass(frozen=True)
class _Group:
    """The rows of some sites: how many each record has (or `ABSENT`), and where they are."""

    rows: Ints
    flat: bool
    odd: Mapping[int, Sequence[int]]


class ShardColumns:
    """What the records of a shard look like, gathered one by one while their tensors go elsewhere.

    Records of one shape share what is kept of it, so that hundreds of thousands take little memory.
    """

    def __init__(self) -> None:
        self._dtypes: dict[str, torch.dtype] = {}
        self._numbers: dict[tuple[tuple[str, Shape], ...], int] = {}
        self._layouts: list[dict[str, Shape]] = []
        self._kinds = array.array("l")
        self._positions = array.array("i")
        self._position_counts = array.array("l")
        self._prompt_lengths = array.array("i")
        self._odd: dict[str, dict[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    @property
    def sites(self) -> list[str]:
        """The sites of all records so far, in the order in which they came."""
        return list(self._dtypes)

    def accepts(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the tensors of one more record can share these columns: they need the same dtypes."""
        return all(self._dtypes.get(site, tensor.dtype) == tensor.dtype for site, tensor in tensors.items())

    def add(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Note one more record."""
        number = len(self)
        for site, tensor in tensors.items():
            self._dtypes.setdefault(site, tensor.dtype)
        shapes = tuple((site, tuple(tensor.shape)) for site, tensor in tensors.items())
        for site, positions in (metadata.get("site_positions") or {}).items():
            if site in tensors:
                self._odd.setdefault(site, {})[number] = list(positions)
        positions = metadata.get("positions") or ()
        self._positions.extend(positions)
        self._position_counts.append(len(positions))
        length = metadata.get("prompt_length")
        self._prompt_lengths.append(ABSENT if length is None else length)
        if shapes not in self._numbers:
            self._numbers[shapes] = len(self._layouts)
            self._layouts.append(dict(shapes))
        self._kinds.append(self._numbers[shapes])

    def truncate(self, records: int) -> None:
        """Forget all records but so many, also one of which noting was interrupted."""
        del self._kinds[records:], self._prompt_lengths[records:], self._position_counts[records:]
        del self._positions[sum(self._position_counts) :]
        for odd in self._odd.values():
            for number in [number for number in odd if number >= records]:
                del odd[number]
        used = max(self._kinds, default=-1) + 1
        del self._layouts[used:]
        self._numbers = {shapes: number for shapes, number in self._numbers.items() if number < used}
        left = {site for layout in self._layouts for site in layout}
        self._dtypes = {site: dtype for site, dtype in self._dtypes.items() if site in left}

    def facts(self, site: str) -> tuple[torch.dtype, Shape]:
        """Dtype and shape of a site's column."""
        shapes = self._shapes_of(site)
        counts = numpy.bincount(numpy.asarray(self._kinds), minlength=len(shapes)).tolist()
        flat = _is_flat(shapes)
        rows = sum(count * _rows(shape, flat) for count, shape in zip(counts, shapes, strict=True) if shape is not None)
        trailing = next(shape for shape in shapes if shape is not None)[1:] if not flat else ()
        return self._dtypes[site], (rows, *trailing)

    def index(self) -> Bundle:
        """The shard's metadata and its own tensors, but for the lines."""
        groups: dict[Any, int] = {}
        tensors: dict[str, Tensor] = {PROMPT_LENGTHS: torch.tensor(self._prompt_lengths, dtype=torch.int32)}
        columns: dict[str, dict[str, Any]] = {}
        kinds = numpy.asarray(self._kinds)
        for site in self._dtypes:
            shapes = self._shapes_of(site)
            flat = _is_flat(shapes)
            rows = numpy.array([ABSENT if shape is None else _rows(shape, flat) for shape in shapes])[kinds]
            group = _Group(rows, flat, self._odd.get(site, {}))
            key = (rows.tobytes(), flat, tuple((number, tuple(at)) for number, at in group.odd.items()))
            if key not in groups:
                groups[key] = len(groups)
                self._describe(group, groups[key], tensors)
            columns[site] = {"group": groups[key]}
            if flat:
                columns[site]["shapes"] = [None if (s := shapes[kind]) is None else list(s) for kind in self._kinds]
        return Bundle(tensors, {"format": FORMAT, "records": len(self), "columns": columns})

    def _shapes_of(self, site: str) -> list[Shape | None]:
        return [layout.get(site) for layout in self._layouts]

    def _describe(self, group: _Group, number: int, tensors: dict[str, Tensor]) -> None:
        counts = numpy.maximum(group.rows, 0)
        offsets = numpy.concatenate(([0], numpy.cumsum(counts)))
        tensors[per_group(OFFSETS, number)] = torch.from_numpy(offsets.astype(numpy.int64))
        if (group.rows == ABSENT).any():
            tensors[per_group(PRESENT, number)] = torch.from_numpy(group.rows != ABSENT)
        if not group.flat:
            tensors[per_group(POSITIONS, number)] = torch.from_numpy(self._positions_of(group, offsets))

    def _positions_of(self, group: _Group, offsets: Ints) -> Ints:
        known = numpy.array(self._positions, dtype=numpy.int32)
        counts = numpy.asarray(self._position_counts)
        if not group.odd and (counts == group.rows).all():
            return known
        found = numpy.full(offsets[-1], ABSENT, numpy.int32)
        begins = numpy.concatenate(([0], numpy.cumsum(counts)))
        for record, rows in enumerate(group.rows.tolist()):
            own: Any = group.odd.get(record)
            own = known[begins[record] : begins[record + 1]] if own is None else own
            if rows == len(own):
                found[offsets[record] : offsets[record + 1]] = own
        return found


def _is_flat(shapes: Sequence[Shape | None]) -> bool:
    """Whether the records of a column differ in more than their number of rows."""
    present = [shape for shape in shapes if shape is not None]
    return any(not shape for shape in present) or len({shape[1:] for shape in present}) > 1


def _rows(shape: Shape, flat: bool) -> int:
    return math.prod(shape) if flat else shape[0]
