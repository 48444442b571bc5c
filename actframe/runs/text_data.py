"""Texts of a data file, a folder of them, or a data set of the hub: read row by row, as often as asked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from actframe.benchmarks.hub import HubData
from actframe.benchmarks.row import Row
from actframe.benchmarks.rows import READERS, data_files, is_data_file, located_rows
from actframe.errors import BenchmarkError, SettingsError, StorageError, nearest
from actframe.records.packing import json_safe
from actframe.runs.text_encoding import OWN_KEYS, Text

__all__ = ["TextData", "TextFields"]

PLAIN_SUFFIX = ".txt"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class TextFields:
    """Where in a row the texts are.

    Attributes:
        text: of texts alone. Default: `text`.
        prompt, response: of pairs.
        drop: fields that records are not to have.
    """

    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.text is not None and (self.prompt is not None or self.response is not None):
            raise SettingsError("a field of texts alone, and fields of pairs: give either the one or the others")
        if (self.prompt is None) != (self.response is None):
            raise SettingsError("a pair has a prompt field and a response field; give both, or a text field")
        if self.prompt is None and self.text is None:
            object.__setattr__(self, "text", "text")

    @property
    def read(self) -> tuple[str, ...]:
        """The fields that each row must have."""
        return (self.text,) if self.text is not None else (str(self.prompt), str(self.response))


class TextData:
    """Rows as texts. Nothing is held: each time that it is gone through, it is read again.

    A row's field `id` becomes its record's `text_id` (else the number of the row does), every other one is said by its
    record as it is; `row` is the number of the row, from 0. Lines of a `.txt` file are texts; blank ones are none. In a
    folder with `.txt` files and no files of rows, each file is one text, without the end of its last line, and its path
    in the folder is its `id`.

    Args:
        source: a file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.arrow`, `.txt`), a folder of them, or the id of
            a data set on the hub.
        fields: where the texts are.
        split, configuration: of a data set on the hub.
        limit: only so many rows, the first ones.

    Raises:
        BenchmarkError: there is no such file, or it cannot be read, or a row is not as it should be, said with its
            place; or the data set cannot be had.
    """

    def __init__(
        self,
        source: str,
        fields: TextFields,
        *,
        split: str | None = None,
        configuration: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.source = source
        self.fields = fields
        self.limit = limit
        self._split = split
        self._files: list[Path] = []
        self._documents: list[Path] = []
        self._hub: HubData | None = None
        path = Path(source).expanduser()
        if path.exists() or path.suffix in (*READERS, PLAIN_SUFFIX) or not _HUB_ID.fullmatch(source):
            if split is not None or configuration is not None:
                what = "split" if split is not None else "configuration"
                raise SettingsError(f"a {what} is of a data set on the hub, and {source!r} is a file or folder")
            self._documents = _documents(path)
            is_plain = path.suffix == PLAIN_SUFFIX and path.is_file()
            self._files = self._documents or ([path] if is_plain else data_files(path))
        else:
            self._hub = HubData(source, configuration)

    def identity(self) -> dict[str, Any]:
        """What tells this data from other data: the content of the files, or the commit on the hub."""
        own = {"fields": list(self.fields.read), "dropped": sorted(self.fields.drop)}
        if self._hub is not None:
            return {**self._hub.identity(), "split": self._split or "train", **own}
        digest = hashlib.sha256()
        for file in self._files:
            if self._documents:
                # Their names are in the records.
                digest.update(self._name(file).encode() + b"\0")
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return {"name": Path(self.source).name, "fingerprint": f"sha256:{digest.hexdigest()}", **own}

    def __iter__(self) -> Iterator[Text]:
        for number, row in enumerate(islice(self._rows(), self.limit)):
            yield self._text(number, row)

    def _rows(self) -> Iterator[Row]:
        if self._hub is not None:
            yield from self._hub.rows(self._split or "train")
            return
        for file in self._documents:
            with _reading(file), file.open(encoding="utf-8-sig", newline="") as content:
                text = content.read().removesuffix("\n").removesuffix("\r")
            yield Row({"id": self._name(file), "text": text}, str(file), file)
        for file in self._files if not self._documents else ():
            yield from _lines(file) if file.suffix == PLAIN_SUFFIX else located_rows(file)

    def _name(self, file: Path) -> str:
        return file.relative_to(Path(self.source).expanduser()).as_posix()

    def _text(self, number: int, row: Row) -> Text:
        parts = [_string(row, name) for name in self.fields.read]
        left_out = {*self.fields.read, *self.fields.drop, "id"}
        about = {name: value for name, value in row.values.items() if name not in left_out}
        text_id = row.values.get("id")
        known = isinstance(text_id, str | int) and not isinstance(text_id, bool) and "id" not in self.fields.drop
        said = {"text_id": text_id if known else number, "row": number, **_said(row, about)}
        return Text(number, parts[0], parts[1] if len(parts) > 1 else None, said)


def _documents(root: Path) -> list[Path]:
    """The `.txt` files of a folder, which are its texts where it has no files of rows."""
    if not root.is_dir():
        return []
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    visible = [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    return [] if any(map(is_data_file, visible)) else [file for file in visible if file.suffix == PLAIN_SUFFIX]


def _lines(path: Path) -> Iterator[Row]:
    with _reading(path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield Row({"text": line.rstrip("\r\n")}, f"{path}, line {number}", path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path} cannot be read: {error}") from error


def _string(row: Row, name: str) -> str:
    if name not in row.values:
        known = list(row.values)
        raise BenchmarkError(
            f"{row.place} has no field {name!r}{nearest(name, known)}; it has {', '.join(map(repr, known)) or 'none'}. "
            "Say where the texts are: --field, or --prompt-field and --response-field"
        )
    value = row.values[name]
    if not isinstance(value, str):
        raise BenchmarkError(f"{row.place}: {name!r} should be a text, not {value!r:.60}")
    return value


def _said(row: Row, about: Mapping[str, Any]) -> dict[str, Any]:
    """The other fields of a row, JSON-safe, under names that no record uses for itself."""
    found: dict[str, Any] = {}
    for name, value in about.items():
        own = f"data_{name}" if name in OWN_KEYS else name
        if own in about and own != name:
            raise BenchmarkError(f"{row.place} has both {name!r} and {own!r}, which is what records call it; drop one")
        plain = str(value) if isinstance(value, date | time | Decimal | UUID) else value
        try:
            found |= json_safe({own: plain})
        except StorageError as error:
            raise BenchmarkError(
                f"{row.place}: the field {name!r} cannot be kept in a record: {error}. "
                f"Leave it out: --drop-fields {name}"
            ) from error
    return found
