"""RowLabels: of which record and position each row of a bundle's tensors is, for formats that others query by that."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy

from actframe.records.bundle import Bundle, facts_of
from actframe.records.columns import FORMAT as SHARD
from actframe.records.columns import Ints
from actframe.records.packing import FORMAT as RECORD
from actframe.records.shard import Shard
from actframe.storage.cutting import is_pattern
from actframe.storage.kinds import kinds_of

__all__ = ["LabelledRows", "RowLabels"]

_SIMPLE = ("bool", "int", "long", "float", "str")


@dataclass(frozen=True)
class LabelledRows:
    """Rows that several tensors have in common: row i of each of them is of the same record and position.

    Attributes:
        names: of the tensors.
        records: int64 `(rows,)`: which record of the bundle each row is of.
        positions: int64 `(rows,)`: its absolute position; -1 where it has no single one, as after `reduce`.
    """

    names: list[str]
    records: Ints
    positions: Ints


class RowLabels:
    """What is known of the rows of a bundle's tensors, whether it is of one record or of a store's shard.

    Only positions and what the records say is read, no activations. A bundle of something else has neither records
    nor rows. Tensors without rows of positions, as attention patterns, are in no group.

    Attributes:
        said: of each record what it says but for its activations.
        groups: the tensors that have the same rows, in the order of the bundle.
        sizes: by tensor of activations that is in no group, `(records,)`: how many of its elements each record has, one
            record's after the other's.
    """

    def __init__(self, bundle: Bundle) -> None:
        rows: Iterable[tuple[str, Ints, Ints]] = ()
        self.sizes: dict[str, Ints] = {}
        self.said: list[dict[str, Any]] = []
        found = bundle.metadata.get("format")
        if found == RECORD:
            self.said = [{key: value for key, value in bundle.metadata.items() if key != "format"}]
            rows = _rows_of_record(bundle, self.said[0])
            shapes = {name: facts_of(bundle.tensors, name)[1] for name in bundle.tensors}
            self.sizes = {
                name: numpy.array([math.prod(shape)]) for name, shape in shapes.items() if not _has_rows(name, shape)
            }
        elif found == SHARD:
            shard = Shard(bundle)
            self.said = [json.loads(line) for line in shard.lines()]
            rows = _rows_of_shard(shard)
            self.sizes = {site: _sizes(shard, site) for site in shard.sites if not _is_regular(shard, site)}
        groups: dict[tuple[bytes, bytes], LabelledRows] = {}
        for name, records, positions in rows:
            group = LabelledRows([], records, positions.astype(numpy.int64))
            groups.setdefault((records.tobytes(), group.positions.tobytes()), group).names.append(name)
        self.groups = list(groups.values())

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """By key, what each record says under it, or None.

        Only keys whose values are all truth values, or all whole numbers of 64 bits, or all numbers, or all texts.
        """
        kinds = kinds_of(self.said)
        simple = {key: kind.name for key, kind in kinds.items() if kind.name in _SIMPLE}
        values = {key: [said.get(key) for said in self.said] for key in simple}
        return {
            key: [None if value is None else float(value) for value in column] if simple[key] == "float" else column
            for key, column in values.items()
        }


def _rows_of_record(bundle: Bundle, said: dict[str, Any]) -> Iterator[tuple[str, Ints, Ints]]:
    """Of each tensor with rows its name, and of which record and position these are."""
    odd = said.get("site_positions")
    for name in bundle.tensors:
        shape = facts_of(bundle.tensors, name)[1]
        if not _has_rows(name, shape):
            continue
        own = odd[name] if isinstance(odd, dict) and name in odd else said.get("positions")
        positions = own if _are_positions(own) and len(own) == shape[0] else [-1] * shape[0]
        yield name, numpy.zeros(shape[0], numpy.int64), numpy.array(positions, numpy.int64)


def _has_rows(name: str, shape: tuple[int, ...]) -> bool:
    return bool(shape) and not is_pattern(name)


def _are_positions(values: Any) -> TypeGuard[list[int]]:
    # A single file holds whatever a record says, sense or not.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**31 for value in values)


def _rows_of_shard(shard: Shard) -> Iterator[tuple[str, Ints, Ints]]:
    everyone = numpy.arange(len(shard))
    for site in shard.sites:
        if _is_regular(shard, site):
            rows = shard.find(site, everyone, "all")
            yield site, numpy.repeat(everyone, rows.counts), shard.positions(site, rows.numbers)


def _is_regular(shard: Shard, site: str) -> bool:
    return not is_pattern(site) and shard.shapes(site) is None


def _sizes(shard: Shard, site: str) -> Ints:
    shapes = shard.shapes(site)
    if shapes is not None:
        return numpy.array([0 if shape is None else math.prod(shape) for shape in shapes])
    return shard.find(site, numpy.arange(len(shard)), "all").counts * math.prod(shard.trailing(site))
