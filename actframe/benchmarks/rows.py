"""Rows of a file or a folder of files, as dictionaries: what benchmarks and texts are read from.

| suffix | rows |
|---|---|
| `.parquet`, `.arrow` | as they are (pyarrow, the extra `parquet`); Arrow files and streams |
| `.jsonl`, `.ndjson` | one object on each line; empty lines count for nothing |
| `.json` | a list of objects, or an object that holds one such list; lines of objects, too |
| `.csv`, `.tsv` | one for each record, every value a text |

All but Parquet and Arrow may be compressed (`.gz`). A text is what stands there: `None`, `NA`, `nan` and nothing at all
are texts like any other, and only `null` of JSON, Parquet and Arrow is None. Rows are read as they are asked for, but
for `.json`, whose format asks for the whole file.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from actframe.benchmarks.row import Row, lacking, there
from actframe.errors import BenchmarkError, needs_extra

__all__ = ["data_files", "files_below", "is_data_file", "located_rows", "of_one_format", "read_rows"]

BATCH_ROWS = 1024
NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What `datasets` writes beside the data."""


def read_rows(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file, or of all data files of a folder in the order of their names.

    Args:
        path: see the top of this module.
        columns: those that are wanted, in this order; of Parquet and Arrow no other is read. Default: all.

    Raises:
        BenchmarkError: there is no such file, it is not what its suffix says, or a row lacks a column; the message
            names the file and the row, and what is there.
        ActframeError: pyarrow is needed and not installed.
    """
    for file in data_files(path):
        for row in located_rows(file, columns=columns):
            yield dict(row.values) if columns is None else {name: row.values[name] for name in columns}


def data_files(path: str | os.PathLike[str]) -> list[Path]:
    """The file itself, or all data files below a folder, sorted; hidden ones are none.

    Raises:
        BenchmarkError: there is none, or they are of several formats.
    """
    return of_one_format(files_below(Path(path).expanduser()), Path(path))


def files_below(root: Path) -> list[Path]:
    """As `data_files`, whatever their formats."""
    if not root.exists():
        raise BenchmarkError(f"no file or folder {str(root)!r}{_beside(root)}")
    if root.is_file():
        if not is_data_file(root):
            raise BenchmarkError(f"{str(root)!r} is no file of rows; those end in {', '.join(READERS)}")
        return [root]
    inside = sorted(file for file in root.rglob("*") if file.is_file())
    visible = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    found = [file for file in visible if is_data_file(file) and file.name not in NOT_DATA]
    if not found:
        names = [str(file.relative_to(root)) for file in visible]
        raise BenchmarkError(f"the folder {str(root)!r} has no file of rows ({', '.join(READERS)}){there(names)}")
    return found


def is_data_file(path: Path) -> bool:
    """Whether a name is that of a file of rows, be it there or not."""
    return _suffix(path) in READERS


def of_one_format(files: list[Path], root: Path) -> list[Path]:
    """The files, which may hold the same rows where they are of several formats: that is refused."""
    if len(formats := sorted({_suffix(file) for file in files})) > 1:
        raise BenchmarkError(
            f"the folder {str(root)!r} has files of several formats ({', '.join(formats)}), which may hold the same "
            f"rows; name the file, or a folder of one format"
        )
    return files


def located_rows(path: Path, *, columns: Sequence[str] | None = None, unnamed: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of one file, with where each stands.

    Args:
        path: a file.
        columns: those that each row must have; of Parquet and Arrow no other is read.
        unnamed: how the columns of a CSV file without a header are called. It has none where its first line does not
            hold the first of these names.

    Raises:
        BenchmarkError: as `read_rows`.
    """
    read = READERS[_suffix(path)]
    try:
        for place, values in read(path, columns, unnamed):
            if missing := [name for name in columns or () if name not in values]:
                raise lacking(f"{path}, {place}", missing, values)
            yield Row(values, f"{path}, {place}", path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise BenchmarkError(f"{path} cannot be read: {error}") from error


Places = Iterator[tuple[str, dict[str, Any]]]
"""Rows with their places within the file."""


def _lines(path: Path, columns: Sequence[str] | None, unnamed: Sequence[str]) -> Places:
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _object(line, f"{path}, line {number}")


def _json(path: Path, columns: Sequence[str] | None, unnamed: Sequence[str]) -> Places:
    with _text(path) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except ValueError as error:
        if "Extra data" in str(error):
            # Many publish lines of objects under this suffix.
            yield from _lines(path, columns, unnamed)
            return
        raise BenchmarkError(f"{path} is not valid JSON: {error}") from error
    for number, entry in enumerate(_list_in(content, path), start=1):
        if not isinstance(entry, dict):
            raise BenchmarkError(f"{path}, entry {number}: a row is a JSON object, not {entry!r:.60}")
        yield f"entry {number}", entry


def _list_in(content: object, path: Path) -> list[Any]:
    if isinstance(content, list):
        return content
    held = f"{content!r:.80}"
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        if len(lists) == 1:
            return next(iter(lists.values()))
        held = f"an object with the lists {', '.join(map(repr, lists)) or 'none'}"
    raise BenchmarkError(f"{path} should hold a list of rows, or an object with one list; it holds {held}")


def _csv(path: Path, columns: Sequence[str] | None, unnamed: Sequence[str]) -> Places:
    with _text(path, newline="") as file:
        # A quote that is never closed would swallow the rest of the file if it were not for `strict`.
        reader = csv.reader(file, delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
        names: Sequence[str] = ()
        try:
            for fields in reader:
                if not fields:
                    continue
                if not names:
                    names = unnamed if unnamed and unnamed[0] not in fields else fields
                    if len(set(names)) < len(names):
                        raise BenchmarkError(f"{path}: two columns have one name: {', '.join(map(repr, names))}")
                    if names is fields:
                        continue
                if len(fields) != len(names):
                    raise BenchmarkError(
                        f"{path}, line {reader.line_num}: {len(fields)} fields, where there should be {len(names)}: "
                        f"{', '.join(map(repr, names))}"
                    )
                yield f"line {reader.line_num}", dict(zip(names, fields, strict=True))
        except csv.Error as error:
            raise BenchmarkError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error


def _parquet(path: Path, columns: Sequence[str] | None, unnamed: Sequence[str]) -> Places:
    with needs_extra("a Parquet file", "pyarrow", "parquet"):
        import pyarrow
        from pyarrow import parquet
    try:
        with parquet.ParquetFile(path) as file:
            _check(path, columns, file.schema_arrow.names)
            batches = file.iter_batches(BATCH_ROWS, columns=None if columns is None else list(columns))
            yield from _of_batches(batches)
    except pyarrow.ArrowInvalid as error:
        raise BenchmarkError(f"{path} is not a Parquet file, or damaged: {error}") from error


def _arrow(path: Path, columns: Sequence[str] | None, unnamed: Sequence[str]) -> Places:
    with needs_extra("an Arrow file", "pyarrow", "parquet"):
        import pyarrow
    try:
        with pyarrow.memory_map(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            if is_file:
                reader = pyarrow.ipc.open_file(source)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                batches = reader = pyarrow.ipc.open_stream(source)
            _check(path, columns, reader.schema.names)
            wanted = batches if columns is None else (batch.select(list(columns)) for batch in batches)
            yield from _of_batches(wanted)
    except pyarrow.ArrowInvalid as error:
        raise BenchmarkError(f"{path} is not an Arrow file, or damaged: {error}") from error


def _of_batches(batches: Iterator[Any]) -> Places:
    number = 0
    for batch in batches:
        for start in range(0, len(batch), BATCH_ROWS):
            for values in batch.slice(start, BATCH_ROWS).to_pylist():
                number += 1
                yield f"row {number}", values


def _check(path: Path, columns: Sequence[str] | None, names: Sequence[str]) -> None:
    if missing := [name for name in columns or () if name not in names]:
        raise lacking(str(path), missing, names)


def _text(path: Path, newline: str | None = None) -> TextIO:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    file: TextIO = opened(path, "rt", encoding="utf-8-sig", newline=newline)
    return file


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise BenchmarkError(f"{place}: not valid JSON: {error}") from error
    if not isinstance(entry, dict):
        raise BenchmarkError(f"{place}: a row is a JSON object, not {entry!r:.60}")
    return entry


def _suffix(path: Path) -> str:
    """The suffix that says the format; empty where a compressed file is of a format that is not read so."""
    suffix = path.suffix.lower()
    if suffix != ".gz":
        return suffix
    inner = Path(path.stem).suffix.lower()
    return "" if inner in (".parquet", ".arrow") else inner


def _beside(path: Path) -> str:
    """What the nearest folder holds, for a path that is not there."""
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r} either"
    return there(sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")))


READERS: Mapping[str, Callable[[Path, Sequence[str] | None, Sequence[str]], Places]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
