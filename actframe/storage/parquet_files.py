"""Records as a Parquet file (pyarrow, the extra `parquet`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from actframe.errors import needs_extra
from actframe.storage.arrow_tables import RecordTables
from actframe.storage.cut_views import CutView
from actframe.storage.survey import Progress

if TYPE_CHECKING:
    import pyarrow

__all__ = ["write_parquet"]


def write_parquet(view: CutView, path: Path, progress: Progress | None = None) -> None:
    """Write the records of a view into a new file, one row group after the other.

    The bytes of floats are stored in planes, as far as readers know that: a bfloat16 that became a float32 has two
    planes of zeros, which compression makes vanish.

    Raises:
        ActframeError: pyarrow is not installed.
    """
    with needs_extra("a Parquet file", "pyarrow", "parquet"):
        import pyarrow
        from pyarrow import parquet
    tables = RecordTables(view)
    said = [path for name in tables.said for path, _ in _leaves(tables.schema.field(name))]
    sites = [leaf for name in tables.sites for leaf in _leaves(tables.schema.field(name))]
    in_planes = [path for path, kind in sites if kind in (pyarrow.float32(), pyarrow.float64())]
    with parquet.ParquetWriter(
        path,
        tables.schema,
        compression="zstd",
        use_dictionary=said,
        write_statistics=said,
        use_byte_stream_split=in_planes,
        write_page_checksum=True,
    ) as writer:
        for table in tables.tables(progress):
            writer.write_table(table, row_group_size=len(table))


def _leaves(field: pyarrow.Field) -> Iterator[tuple[str, pyarrow.DataType]]:
    """The columns that Parquet makes of one of Arrow's, by their paths."""
    from pyarrow import types

    kind = field.type
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        inner = [kind.value_field.with_name("list.element")]
    elif types.is_struct(kind):
        inner = [kind.field(number) for number in range(kind.num_fields)]
    else:
        yield field.name, kind
        return
    for child in inner:
        for path, leaf in _leaves(child):
            yield f"{field.name}.{path}", leaf
