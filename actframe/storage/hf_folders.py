"""Records as a folder that Hugging Face `datasets` loads from disk (the extra `hf`)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actframe.errors import needs_extra
from actframe.storage.arrow_tables import RecordTables
from actframe.storage.cut_views import CutView
from actframe.storage.survey import Progress

if TYPE_CHECKING:
    import pyarrow

__all__ = ["STATE", "write_hf_folder"]

STATE = "state.json"
FILE_BYTES = 500 * 10**6
_BATCH_ROWS = 1000


def write_hf_folder(view: CutView, folder: Path, progress: Progress | None = None) -> None:
    """Write the records of a view into an empty folder, as `Dataset.save_to_disk` would.

    What `datasets` has for making data sets of what is too large for memory writes everything twice, first into a
    cache of its own. The files are Arrow streams with its own features as their schema, beside two files of JSON.

    Raises:
        ActframeError: datasets is not installed.
    """
    with needs_extra("a data set", "datasets", "hf"):
        import datasets
    tables = RecordTables(view)
    features = datasets.Features.from_arrow_schema(tables.schema.remove_metadata())
    names = list(_write_files(tables, features.arrow_schema, folder, progress))
    final = [f"data-{number:05d}-of-{len(names):05d}.arrow" for number in range(len(names))]
    for name, last in zip(names, final, strict=True):
        (folder / name).rename(folder / last)
    about = json.dumps(view.as_json())
    datasets.DatasetInfo(description=about, features=features).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in final],
        "_fingerprint": secrets.token_hex(8),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / STATE).write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")


def _write_files(
    tables: RecordTables, schema: pyarrow.Schema, folder: Path, progress: Progress | None
) -> Iterator[str]:
    """Write one file after the other, and give their names."""
    import pyarrow

    waiting = tables.tables(progress)
    table = next(waiting, None)
    number = 0
    while table is not None:
        name = f"data-{number:05d}.arrow"
        size = 0
        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            while table is not None and (not size or size + table.nbytes <= FILE_BYTES):
                writer.write_table(pyarrow.Table.from_arrays(table.columns, schema=schema), _BATCH_ROWS)
                size += table.nbytes
                table = next(waiting, None)
        yield name
        number += 1
