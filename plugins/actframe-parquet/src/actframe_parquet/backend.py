"""Storage backend `parquet`: a table with a row for each position, a column for each site, and what records say."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import torch
from pyarrow import parquet

from actframe import (
    Bundle,
    FormatError,
    LazyTensors,
    PositionalFile,
    StorageBackend,
    StorageError,
    UnsafeFileError,
)
from actframe_parquet.columns import Stored
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

    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read the metadata; columns are read when they are looked up."""
        file = PositionalFile(path)
        with _opened(file) as source:
            metadata, stored = _about((source.schema_arrow.metadata or {}).get(ABOUT.encode()))

        def load(name: str) -> torch.Tensor:
            with _opened(file) as source:
                own = stored[name]
                return own.tensor(_values(source, name, own, file.size), next(iter(own.shape), 0))

        def rows(name: str, start: int, stop: int) -> torch.Tensor:
            own = stored[name]
            start, stop, _ = slice(start, stop).indices(own.shape[0])
            if own.starts is None or start >= stop:
                return load(name)[start:stop].clone()
            groups = [
                group
                for group, (first, last) in enumerate(itertools.pairwise(own.starts))
                if first < stop and start < last
            ]
            with _opened(file) as source:
                first, last = own.starts[groups[0]], own.starts[groups[-1] + 1]
                found = own.tensor(_values(source, name, own, file.size, groups), last - first)
            return found[start - first : stop - first].clone()

        def facts(name: str) -> tuple[torch.dtype, tuple[int, ...]]:
            return stored[name].torch_dtype, tuple(stored[name].shape)

        wanted = [name for name in stored if names is None or name in names]
        return Bundle(LazyTensors(wanted, load, facts=facts, rows=rows), metadata)


def _values(
    source: parquet.ParquetFile, name: str, stored: Stored, file_bytes: int, groups: list[int] | None = None
) -> Any:
    """The values of a column, of some row groups or all.

    Raises:
        FormatError: there is no such column.
        UnsafeFileError: it declares more than the file bears out.
    """
    number = source.schema_arrow.get_field_index(name)
    if number < 0:
        raise FormatError(f"it lacks the column {name!r}, which it says it holds")
    groups = list(range(source.num_row_groups)) if groups is None else groups
    values = sum(source.metadata.row_group(group).column(number).num_values for group in groups)
    declared = max(math.prod(stored.shape), values) * stored.torch_dtype.itemsize
    if declared > max(_BELIEVED_BYTES, file_bytes * _MOST_TIMES) * 2:
        raise UnsafeFileError(f"{name!r} declares {declared} bytes, and the file has {file_bytes}")
    # By its path: columns are also found by what their names begin with.
    table = source.read_row_groups(groups, columns=[source.schema.column(number).path])
    return table.column(name).combine_chunks()


def _about(text: bytes | None) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The bundle's metadata, and how its tensors are stored.

    Raises:
        FormatError: the file does not say.
    """
    if text is None:
        raise FormatError(f"it has no {ABOUT!r} in its metadata: it is an export, or a table of somebody else's")
    about = json.loads(text)
    if not isinstance(about, dict) or not all(isinstance(about.get(key), dict) for key in ("metadata", "tensors")):
        raise FormatError(f"{ABOUT!r} in its metadata does not hold metadata and tensors")
    return about["metadata"], {name: Stored.of(said) for name, said in about["tensors"].items()}


@contextmanager
def _opened(file: PositionalFile) -> Iterator[parquet.ParquetFile]:
    """The Parquet file; what a damaged one makes Arrow raise becomes a FormatError."""
    try:
        with parquet.ParquetFile(io.BufferedReader(_Raw(file)), page_checksum_verification=True) as source:
            yield source
    except (StorageError, MemoryError):
        raise
    except (pyarrow.ArrowException, ValueError, TypeError, KeyError, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FormatError(f"it is not what this backend writes, damaged, or cut short: {error}") from error


class _Raw(io.RawIOBase):
    """What Arrow reads from: between two of its reads no file is open."""

    def __init__(self, file: PositionalFile) -> None:
        super().__init__()
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where the next read begins."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file goes."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._file.size - self._at))
        self._file.read_into(self._at, view[:count])
        self._at += count
        return count
