"""BundleTable: a bundle as a table, which is made some rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy
import pyarrow
import torch

from actframe import Bundle, LazyTensors, RowLabels, StorageError
from actframe_parquet.columns import Column
from actframe_parquet.rows import TableRows, table_rows

__all__ = ["ABOUT", "BundleTable"]

ABOUT = "actframe.bundle"
"""The key under which the file's metadata has the bundle's, and how each tensor is stored."""

LINES = "actframe.records"
"""The tensor of a shard that holds what its records say, one line of JSON for each."""

GROUP_BYTES = 64 << 20


class BundleTable:
    """The table of a bundle whose tensors are in memory.

    Attributes:
        schema: of the table; its metadata says how to make the bundle of it.
        labels: the columns that say something of the rows, and repeat it.
        floats: what Parquet calls the values of columns of float32 and float64.

    Raises:
        StorageError: Parquet cannot hold the dtype of a tensor, or its name.
    """

    def __init__(self, bundle: Bundle) -> None:
        tensors, labels = LazyTensors.of(bundle.tensors), RowLabels(bundle)
        self._rows = table_rows(tensors, labels)
        self._columns = {name: _column(name, tensors[name], self._rows, labels) for name in tensors}
        self._lines = _lines(tensors[LINES], len(self._rows.firsts)) if LINES in tensors and labels.said else None
        self._said = {key: values for key, values in _said(labels).items() if key not in self._columns}
        total = sum(tensors[name].numel() * max(4, tensors[name].itemsize) for name in tensors)
        self._step = max(1, GROUP_BYTES * len(self._rows) // max(1, total))
        self._begins = list(range(0, len(self._rows), self._step))
        self.labels = [name for name in ("record", "position") if labels.said and name not in self._columns]
        self.labels += self._said
        self.schema = self._schema(bundle)
        values = {field.name: getattr(field.type, "value_type", field.type) for field in self.schema}
        self.floats = [
            f"{name}.list.element" if pyarrow.types.is_nested(column.type) else name
            for name, column in self._columns.items()
            if values[name] in (pyarrow.float32(), pyarrow.float64())
        ]

    def parts(self) -> Iterator[pyarrow.Table]:
        """The row groups, one after the other."""
        for start in self._begins:
            stop = min(len(self._rows), start + self._step)
            parts = {**self._labels(start, stop), **{name: self._part(name, start, stop) for name in self._columns}}
            yield pyarrow.Table.from_arrays([parts[name] for name in self.schema.names], schema=self.schema)

    def _schema(self, bundle: Bundle) -> pyarrow.Schema:
        stored = {name: asdict(column.stored(self._begins)) for name, column in self._columns.items()}
        types = {name: column.type for name, column in self._columns.items()}
        if self._lines is not None:
            stored[LINES]["kind"], types[LINES] = "lines", pyarrow.string()
        own = {name: array.type for name, array in self._labels(0, 0).items()}
        about = json.dumps({"metadata": bundle.metadata, "tensors": stored})
        try:
            return pyarrow.schema([*own.items(), *types.items()], {ABOUT: about})
        except UnicodeEncodeError as error:
            raise StorageError(f"a column of a Parquet file cannot be called {error.object!r:.80}: {error}") from error

    def _labels(self, start: int, stop: int) -> dict[str, Any]:
        """The columns that say of which record and position rows are, and what that record says."""
        records, positions = self._rows.records[start:stop], self._rows.positions[start:stop]
        found = {"record": pyarrow.array(records), "position": pyarrow.array(positions, mask=positions < 0)}
        said = {key: values.take(found["record"]) for key, values in self._said.items()}
        return {name: ({**said, **found})[name] for name in self.labels}

    def _part(self, name: str, start: int, stop: int) -> Any:
        if name != LINES or self._lines is None:
            return self._columns[name].part(start, stop)
        first, last = numpy.searchsorted(self._rows.firsts, [start, stop]).tolist()
        texts: list[str | None] = [None] * (stop - start)
        for place, line in zip(self._rows.firsts[first:last].tolist(), self._lines[first:last], strict=True):
            texts[place - start] = line
        return pyarrow.array(texts, pyarrow.string())


def _column(name: str, tensor: torch.Tensor, rows: TableRows, labels: RowLabels) -> Column:
    # Parquet has no lists of size 0.
    places = rows.places.get(name) if 0 not in tensor.shape[1:] else None
    try:
        return Column(tensor, rows, places, labels.sizes.get(name))
    except StorageError as error:
        raise StorageError(f"{name!r} cannot be kept in Parquet: {error}") from error


def _said(labels: RowLabels) -> dict[str, Any]:
    """By key what each record says."""
    found = {}
    for key, values in labels.columns.items():
        try:
            key.encode()
            found[key] = pyarrow.array(values)
        except UnicodeEncodeError:
            # Half of a surrogate pair is no text for Arrow; the metadata has it.
            continue
    return {key: values for key, values in found.items() if key not in ("record", "position")}


def _lines(tensor: torch.Tensor, records: int) -> list[str] | None:
    """The lines of text that a tensor holds, one for each record; None where it is not exactly that."""
    try:
        lines = tensor.numpy().tobytes().decode().split("\n")
    except UnicodeDecodeError:
        return None
    return lines[:-1] if len(lines) == records + 1 and not lines[-1] else None
