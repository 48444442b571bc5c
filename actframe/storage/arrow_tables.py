"""Records as Arrow tables, a row for each: what Parquet files and data sets hold. Their writers see to pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy

from actframe.errors import SelectionError
from actframe.storage.cut_views import CutView, Piece, SiteFacts
from actframe.storage.kinds import JSON, Kind, as_json_text, kinds_of
from actframe.storage.ledger_files import Array
from actframe.storage.survey import Progress

if TYPE_CHECKING:
    import pyarrow

__all__ = ["SHAPE", "RecordTables"]

TABLE_BYTES = 64 << 20
_MOST = 2**31 - 1
SHAPE = ".shape"
"""Ends the name of the column that says the shape of tensors whose own column is flat."""


class RecordTables:
    """Tables of the records of a view.

    What records say comes first, a column for each key, of the type that all values have in common; what has none
    in common is JSON text. Then each site has a column: of lists of one size where exactly one row of each record is
    meant, else of lists of such rows; tensors that differ in more than the number of rows are flat lists, with their
    shape in a column beside. Records without the site have null there.

    Attributes:
        schema: of all tables. Its metadata says under `actframe` where the records come from, and of each site what
            dtype and shape its rows have; the field of a site says the same of it.
        said, sites: the columns of each kind.

    Raises:
        SelectionError: what records say has the name of a site.
    """

    def __init__(self, view: CutView) -> None:
        import pyarrow

        self._view = view
        self._one_row = view.is_one_row_each
        self._kinds = kinds_of(view.view.entries())
        said = [pyarrow.field(key, arrow_type(kind)) for key, kind in self._kinds.items()]
        sites = [field for site in view.sites for field in self._fields(site)]
        self.said = [field.name for field in said]
        self.sites = [field.name for field in sites]
        if twice := set(self.said) & set(self.sites):
            raise SelectionError(
                f"the records say something under {', '.join(sorted(twice))}, where the activations of that name would "
                f"be: choose other sites"
            )
        self.schema = pyarrow.schema([*said, *sites], {"actframe": json.dumps(view.as_json())})

    def tables(self, progress: Progress | None = None) -> Iterator[pyarrow.Table]:
        """The records in their order, some at a time."""
        import pyarrow

        waiting: list[pyarrow.Table] = []
        size = 0
        for piece in self._view.pieces(progress):
            table = self._table(piece)
            if waiting and size + table.nbytes > TABLE_BYTES:
                yield pyarrow.concat_tables(waiting).combine_chunks()
                waiting, size = [], 0
            waiting.append(table)
            size += table.nbytes
        yield pyarrow.concat_tables(waiting).combine_chunks()

    def _fields(self, site: str) -> list[pyarrow.Field]:
        import pyarrow

        facts = self._view.sites[site]
        values = pyarrow.from_numpy_dtype(facts.numpy_dtype)
        says = {"actframe": json.dumps(facts.as_json())}
        if facts.trailing is None:
            shapes = pyarrow.field(site + SHAPE, pyarrow.list_(pyarrow.int32()))
            return [pyarrow.field(site, pyarrow.list_(values), metadata=says), shapes]
        rows = pyarrow.list_(values, facts.width)
        return [pyarrow.field(site, rows if self._one_row else pyarrow.list_(rows), metadata=says)]

    def _table(self, piece: Piece) -> pyarrow.Table:
        import pyarrow

        columns = []
        for key, kind in self._kinds.items():
            values = [said.get(key) for said in piece.said]
            texts = list(map(as_json_text, values)) if kind is JSON else values
            columns.append(pyarrow.array(texts, arrow_type(kind)))
        for site, facts in self._view.sites.items():
            columns += self._columns(piece, site, facts)
        return pyarrow.Table.from_arrays(columns, schema=self.schema)

    def _columns(self, piece: Piece, site: str, facts: SiteFacts) -> list[pyarrow.Array]:
        import pyarrow

        counts, shapes = piece.counts(site), piece.shapes(site)
        absent = numpy.array([shape is None for shape in shapes])
        values: Any = pyarrow.array(piece.values(site).reshape(-1))
        if facts.trailing is None:
            shapes_type = pyarrow.list_(pyarrow.int32())
            return [_lists(values, counts, absent), pyarrow.array(shapes, shapes_type)]
        rows = pyarrow.FixedSizeListArray.from_arrays(values, facts.width)
        if not self._one_row:
            return [_lists(rows, counts, absent)]
        if (counts == 1).all():
            return [rows]
        places = numpy.cumsum(counts) - 1
        return [rows.take(pyarrow.array(places, mask=counts != 1))]


def arrow_type(kind: Kind) -> pyarrow.DataType:
    """The Arrow type of a column. One in which there is nothing but null is of text."""
    import pyarrow

    if kind.items is not None:
        return pyarrow.list_(arrow_type(kind.items))
    if kind.fields:
        return pyarrow.struct([(key, arrow_type(each)) for key, each in kind.fields])
    simple = {"bool": pyarrow.bool_(), "int": pyarrow.int64(), "long": pyarrow.int64(), "float": pyarrow.float64()}
    return simple.get(kind.name, pyarrow.string())


def _lists(values: Any, counts: Array, absent: Array) -> pyarrow.Array:
    """Lists of so many values each; null where `absent`."""
    import pyarrow

    offsets = numpy.concatenate(([0], numpy.cumsum(counts)))
    if offsets[-1] > _MOST:
        raise SelectionError(f"{offsets[-1]} values of one record are more than a list holds ({_MOST}); cut positions")
    offsets = offsets.astype(numpy.int32)
    mask = numpy.append(absent, False) if absent.any() else None
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets, mask=mask), values)
