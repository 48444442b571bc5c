"""Exporting records of a store to formats that other programs read."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from actframe.errors import StorageError, UnknownNameError, nearest
from actframe.storage.atomic import check_writable, rename_new, sync, sync_folder, temporary_file
from actframe.storage.cut_views import CutView
from actframe.storage.cutting import Cut, CutSettings, warn_of_overflows
from actframe.storage.failures import failing
from actframe.storage.hf_folders import STATE, write_hf_folder
from actframe.storage.npz_files import write_npz
from actframe.storage.parquet_files import write_parquet
from actframe.storage.store import ActivationStore
from actframe.storage.survey import Progress
from actframe.storage.view import StoreView

__all__ = ["FORMATS", "ExportFormat", "Exported", "export_store"]

ExportFormat = Literal["parquet", "npz", "hf"]
FORMATS: tuple[ExportFormat, ...] = ("parquet", "npz", "hf")

_WRITERS: dict[str, Callable[[CutView, Path, Progress | None], None]] = {
    "parquet": write_parquet,
    "npz": write_npz,
    "hf": write_hf_folder,
}
_SUFFIXES = {"parquet": ".parquet", "npz": ".npz"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        location: the absolute path of the file or folder.
        to: the format.
        records: how many there are in it.
        sites: those that it has.
        files: how many files it is, and how many `bytes` these have.
    """

    location: str
    to: str
    records: int
    sites: list[str]
    files: int
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """The same in JSON-safe form."""
        return asdict(self)


def export_store(
    source: StoreView | Path | str,
    target: Path | str,
    to: ExportFormat,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
    **cut: Unpack[CutSettings],
) -> Exported:
    """Write records of a store, what they say and what was recorded, in a format that other programs read.

    The target is there when everything is written and on disk; of an export that ended early nothing remains. Memory
    stays flat, however large the store is. Only what is exported is read, so checksums of shards are not compared:
    `actframe verify` does that.

    Args:
        source: a store, or a view of one: `store.where(correct=False)`.
        target: a new file ending with `.parquet` or `.npz`; for `"hf"` a new folder.
        to: `"parquet"`, `"npz"`, or `"hf"`, which `datasets.load_from_disk` reads.
        progress: is told how many bytes of the source are done, of how many.
        overwrite: whether to replace what an earlier export has written there.
        cut: `sites`, `positions` and `dtype`, as for `convert_store`: by default all, as they are. Floating dtypes of
            which other programs know nothing, bfloat16 for instance, become float32, which holds all their values.

    Raises:
        StorageError: there is something at the target, or its suffix is another, or it cannot be written; or a shard
            cannot be read.
        SelectionError: there are no records, or they do not have the positions, or are too different.
        SiteError: the records do not have a site.
        UnknownNameError: no such format.
        ActframeError: a package is missing; the message says how to get it.
    """
    if to not in FORMATS:
        raise UnknownNameError(f"no export format named {to!r}{nearest(to, FORMATS)}; there are {', '.join(FORMATS)}")
    path = _checked(target, to, overwrite)
    wanted = Cut(**cut)
    view = source if isinstance(source, StoreView) else ActivationStore(source, create=False)
    # What is appended to the store meanwhile is not exported.
    records = CutView(view[:], wanted)
    try:
        with failing(f"cannot export to {path}"), _arriving(path, to, overwrite) as temporary:
            _WRITERS[to](records, temporary, progress)
    finally:
        warn_of_overflows(records.overflows, wanted)
    sizes = [file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path])]
    return Exported(str(path), to, len(records), list(records.sites), len(sizes), sum(sizes))


def _checked(target: Path | str, to: str, overwrite: bool) -> Path:
    """The target as an absolute path, to which something can be written.

    Raises:
        StorageError: nothing can.
    """
    if "://" in os.fspath(target):
        raise StorageError(f"cannot export to {target}: exports are written to this machine's disk; give a path")
    path = Path(target).absolute()
    suffix, expected = path.suffix, _SUFFIXES.get(to)
    with failing(f"cannot export to {path}"):
        if expected is not None and suffix != expected:
            raise StorageError(f"the name of such a file ends with {expected!r}, and this one with {suffix!r}")
        if expected is None and suffix in _SUFFIXES.values():
            raise StorageError(f"a Hugging Face data set is a folder, and {suffix!r} the suffix of a file")
        if not path.parent.is_dir():
            raise StorageError(f"the folder {path.parent} does not exist; create it first")
        if path.exists() or path.is_symlink():
            _check_replaceable(path, to, overwrite)
        check_writable(path.parent)
    return path


def _check_replaceable(path: Path, to: str, overwrite: bool) -> None:
    is_export = (path / STATE).is_file() if to == "hf" else path.is_file()
    if not is_export:
        raise StorageError(f"what is there was not written by such an export; choose another {_noun(to)}")
    if not overwrite:
        raise StorageError(
            f"it is there already; choose another {_noun(to)}, or overwrite=True (--overwrite) to replace it"
        )


def _noun(to: str) -> str:
    return "folder" if to == "hf" else "file"


def _arriving(path: Path, to: str, overwrite: bool) -> contextlib.AbstractContextManager[Path]:
    return _arriving_folder(path, overwrite) if to == "hf" else _arriving_file(path, overwrite)


@contextlib.contextmanager
def _arriving_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """A file to write into that gets its name when the block ends without an error, and else is gone."""
    with temporary_file(path.parent, path.suffix) as temporary:
        yield temporary
        sync(temporary)
        if overwrite:
            os.replace(temporary, os.path.realpath(path))
        else:
            rename_new(temporary, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _arriving_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """As for a file. Where there is another folder already, that is moved aside, and deleted at the end."""
    temporary = path.parent / f".actframe-{secrets.token_hex(8)}"
    temporary.mkdir()
    before = temporary.with_name(temporary.name + "-before")
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync_folder(temporary)
        if overwrite and path.exists():
            path.rename(before)
        try:
            # Of what came to be there meanwhile, only an empty folder is replaced.
            temporary.rename(path)
        except BaseException:
            if before.exists() and not path.exists():
                before.rename(path)
            raise
        sync_folder(path.parent)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
