"""Where a data set on this machine keeps its parts: found by the names of files and folders.

A file belongs to a split where its name, or that of a folder on the way to it, has the split as a word: `test.jsonl`,
`test-00000-of-00001.parquet`, `test/data.arrow`, `test/anatomy_test.csv`. In the same way configurations are told apart
in a folder that holds several: `ARC-Easy/test.parquet`, `ARC-Challenge-Test.jsonl`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actframe.benchmarks.row import Row, there
from actframe.benchmarks.rows import files_below, located_rows, of_one_format
from actframe.errors import BenchmarkError

__all__ = ["LocalData"]

SPELLINGS = {"validation": ("validation", "valid", "val", "dev"), "dev": ("dev",), "train": ("train", "training")}
"""Other names of a split, the first that is found counts: many publish their validation data as `dev`."""
KNOWN = ("test", "train", "training", "validation", "valid", "val", "dev")


class LocalData:
    """A data set in a file or folder.

    Args:
        path: the file or folder; looked for at once.
        configuration: which one, where the folder has several.
        unnamed: how the columns of CSV files without a header are called.

    Raises:
        BenchmarkError: there is nothing of that name, or nothing with rows in it.
    """

    def __init__(self, path: str, configuration: str | None = None, unnamed: Sequence[str] = ()) -> None:
        self._given = path
        self._root = Path(path).expanduser()
        self._unnamed = tuple(unnamed)
        files = files_below(self._root)
        self._files = [f for f in files if _has(self._name(f), configuration)] or files if configuration else files

    def __str__(self) -> str:
        return repr(str(self._root))

    def identity(self) -> Mapping[str, Any]:
        """Where it is."""
        return {"data": self._given}

    def rows(self, split: str, *, or_all: bool = False) -> Iterator[Row]:
        """The rows of a split.

        Args:
            split: its name.
            or_all: where no name tells any split, everything is meant.

        Raises:
            BenchmarkError: there is no such split; the message says what there is.
        """
        for file in self._of(split, or_all):
            yield from located_rows(file, unnamed=self._unnamed)

    def _of(self, split: str, or_all: bool) -> list[Path]:
        for spelling in SPELLINGS.get(split, (split,)):
            if found := [file for file in self._files if _has(self._name(file), spelling)]:
                return of_one_format(found, self._root)
        if or_all and (
            self._root.is_file() or not any(_has(self._name(f), known) for f in self._files for known in KNOWN)
        ):
            return of_one_format(self._files, self._root)
        if self._root.is_file():
            raise BenchmarkError(
                f"{self} is a single file, without a split {split!r}; give a folder that has it, in a file or folder "
                f"of that name"
            )
        names = [str(file.relative_to(self._root)) for file in self._files]
        raise BenchmarkError(f"{self} has no file or folder for the split {split!r}{there(names)}")

    def _name(self, file: Path) -> str:
        return file.name if self._root.is_file() else str(file.relative_to(self._root))


def _has(name: str, word: str) -> bool:
    return f"_{_plain(word)}_" in f"_{_plain(name)}_"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())
