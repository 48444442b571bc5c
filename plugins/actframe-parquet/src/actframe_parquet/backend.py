"""Storage backend `parquet`: a table with a row for each position, a column for each site, and what records say."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow
import torch
from pyarrow import parquet

from actframe import (
    Bundle,
    FormatError,
    LazyTensors,
    StorageBackend,
    UnsafeFileError,
)
from actframe_parquet.columns import Stored
from actframe_parquet.sealed import SealedFile, seal
from actframe_parquet.tables import ABOUT, BundleTable

__all__ = ["ParquetBackend"]

# What a column declares beyond this is believed only up to so many times the bytes of the file.
_BELIEVED_BYTES, _MOST_TIMES = 64 << 20, 1000


class ParquetBackend(StorageBackend):
    """`.parquet` files, which DuckDB, Polars, pandas and Hugging Face `datasets` query; a site is read by itself."""

    name = "parquet"
    suffix = ".parquet"
    reads_lazily = True

    def write(self, path: Path, bundle: Bundle) -> None:
        """Write the table, one row group after the other; all tensors are in memory meanwhile."""
        table = BundleTable(Bundle(dict(bundle.tensors), bundle.metadata))
        declared = 0
        with (
            pyarrow.OSFile(str(path), "wb") as file,
            parquet.ParquetWriter(
                file,
                table.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=table.labels,
                write_statistics=table.labels,
                # The zeros that widening adds are planes of their own then, and vanish.
                use_byte_stream_split=table.floats,
                write_page_checksum=True,
            ) as writer,
        ):
            for part in table.parts():
                writer.write_table(part, row_group_size=max(1, len(part)))
                declared += part.drop_columns(table.labels).nbytes
            if declared > _BELIEVED_BYTES and (lacking := declared // _MOST_TIMES - file.tell()) > 0:
                # Of one value alone, it has become so small that nobody would believe it.
                writer.add_key_value_metadata({"actframe.padding": " " * lacking})
        seal(path)

    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read the metadata; columns are read when they are looked up."""
        file = SealedFile(path)
        metadata, stored = _about((file.schema.metadata or {}).get(ABOUT.encode()))

        def load(name: str) -> torch.Tensor:
            own = stored[name]
            return own.tensor(_values(file, name, own), next(iter(own.shape), 0))

        def rows(name: str, start: int, stop: int) -> torch.Tensor:
            own = stored[name]
            start, stop, _ = slice(start, stop).indices(own.shape[0])
            if own.starts is None or start >= stop:
                return load(name)[start:stop].clone()
            if len(own.starts) != file.metadata.num_row_groups + 1:
                raise FormatError(f"it does not say of every row group which rows of {name!r} it has")
            bounds = enumerate(itertools.pairwise(own.starts))
            groups = [group for group, (first, last) in bounds if first < stop and start < last]
            first, last = own.starts[groups[0]], own.starts[groups[-1] + 1]
            found = own.tensor(_values(file, name, own, groups), last - first)
            return found[start - first : stop - first].clone()

        def facts(name: str) -> tuple[torch.dtype, tuple[int, ...]]:
            return stored[name].torch_dtype, tuple(stored[name].shape)

        wanted = [name for name in stored if names is None or name in names]
        return Bundle(LazyTensors(wanted, load, facts=facts, rows=rows), metadata)


def _values(file: SealedFile, name: str, stored: Stored, groups: list[int] | None = None) -> Any:
    """The values of a column, of some row groups or all.

    Raises:
        FormatError: there is no such column, or it is damaged.
        UnsafeFileError: it declares more than the file bears out.
    """
    column = file.schema.get_field_index(name)
    if column < 0:
        raise FormatError(f"it lacks the column {name!r}, which it says it holds")
    groups = list(range(file.metadata.num_row_groups)) if groups is None else groups
    declared = max(math.prod(stored.shape), file.values(column, groups)) * stored.torch_dtype.itemsize
    if declared > max(_BELIEVED_BYTES, file.size * _MOST_TIMES) * 2:
        raise UnsafeFileError(f"{name!r} declares {declared} bytes, and the file has {file.size}")
    return file.read(column, groups)


def _about(text: bytes | None) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The bundle's metadata, and how its tensors are stored.

    Raises:
        FormatError: the file does not say.
    """
    try:
        about = json.loads(text or b"null")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{ABOUT!r} in its metadata is not JSON text: {error}") from error
    if not isinstance(about, dict) or not all(isinstance(about.get(key), dict) for key in ("metadata", "tensors")):
        raise FormatError(f"{ABOUT!r} in its metadata does not hold metadata and tensors")
    return about["metadata"], {name: Stored.of(said) for name, said in about["tensors"].items()}
