"""Which row of the table each row of each tensor becomes: a row of the table is one position of one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from actframe import LazyTensors, RowLabels, StorageError

__all__ = ["TableRows", "table_rows"]

Ints = numpy.ndarray[tuple[int], numpy.dtype[Any]]


@dataclass(frozen=True)
class TableRows:
    """The rows of a table.

    Attributes:
        records: int64 `(rows,)`: which record each row is of; -1 where there are no records.
        positions: int64 `(rows,)`: of which position; -1 where it is of none.
        places: by tensor whose rows are rows of the table, int64 `(len(tensor),)`: which they are, one after the other.
        firsts: int64 `(records,)`: the first row of each record.
    """

    records: Ints
    positions: Ints
    places: dict[str, Ints]
    firsts: Ints

    def __len__(self) -> int:
        return len(self.records)


def table_rows(tensors: LazyTensors, labels: RowLabels) -> TableRows:
    """The rows of the table of a bundle.

    Rows of one record stand together, in the order of their positions, the one without a position first. Each record
    has a row, also where nothing was recorded. Tensors of a bundle that has no records begin in the first row.
    """
    if not labels.said:
        return _unlabelled(tensors)
    groups = [(group.names, group.records, group.positions) for group in labels.groups]
    if len(groups) == 1 and len(numpy.unique(groups[0][1])) == len(labels.said):
        names, records, positions = groups[0]
        return TableRows(records, positions, dict.fromkeys(names, numpy.arange(len(records))), _firsts(records))
    base = 2 + max((int(positions.max(initial=-1)) for _, _, positions in groups), default=0)
    times = max((len(positions) for _, _, positions in groups), default=0) + 1
    if len(labels.said) * base * times >= 2**63:
        raise StorageError("the positions of these records are too large for one table; use smaller shards")
    keys = [(records * base + positions + 1) * times for _, records, positions in groups]
    keys = [key + _repetitions(key) for key in keys]
    everyone = numpy.arange(len(labels.said))
    seen = numpy.concatenate([records for _, records, _ in groups]) if groups else everyone[:0]
    alone = numpy.setdiff1d(everyone, seen) * base * times
    table = numpy.unique(numpy.concatenate([*keys, alone]))
    places = {
        name: numpy.searchsorted(table, key)
        for (names, _, _), key in zip(groups, keys, strict=True)
        if (numpy.diff(key) > 0).all()
        for name in names
    }
    records = table // (base * times)
    return TableRows(records, table // times % base - 1, places, _firsts(records))


def _unlabelled(tensors: LazyTensors) -> TableRows:
    shapes = {name: tensors.facts(name)[1] for name in tensors}
    places = {name: numpy.arange(shape[0]) for name, shape in shapes.items() if shape and 0 not in shape}
    nowhere = numpy.full(max(map(len, places.values()), default=min(1, len(shapes))), -1)
    return TableRows(nowhere, nowhere, places, numpy.zeros(1, numpy.int64))


def _firsts(records: Ints) -> Ints:
    return numpy.flatnonzero(numpy.diff(records, prepend=-1))


def _repetitions(keys: Ints) -> Ints:
    """How often each key was there before, where equal ones stand together, as rows without a position do."""
    begins = numpy.flatnonzero(numpy.diff(keys, prepend=-1))
    return numpy.arange(len(keys)) - numpy.repeat(begins, numpy.diff(begins, append=len(keys)))
