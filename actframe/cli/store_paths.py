"""Telling stores, files and folders apart, and what to say of a path that is not what a command takes."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from actframe.errors import StorageError, nearest

if TYPE_CHECKING:
    from actframe.storage.folders import StoreFolder

__all__ = ["check_folder", "is_folder", "no_record_here", "no_store_here", "open_folder"]

_ANSWERS = "answers.jsonl"
"""What a run with the layout `files` leaves in its folder."""


def is_folder(path: str) -> bool:
    """Whether a path can be that of a store and of nothing else: a folder, or a URL."""
    return "://" in path or os.path.isdir(path)


def open_folder(path: str) -> StoreFolder:
    """The folder of the store at a path or a URL; the store is not opened.

    Raises:
        StorageError: there is none; the message says what is there, and what may have been meant.
    """
    from actframe.storage.folders import store_folder

    folder = store_folder(path)
    # First what takes no heavy library to say.
    if not folder.exists():
        raise StorageError(f"there is no store at {path}: nothing is there{_meant(path)}")
    from actframe.storage.identity import is_store

    # A file has nothing in it either.
    if ("://" not in path and os.path.isfile(path)) or not is_store(folder):
        raise no_store_here(path)
    return folder


def check_folder(path: str) -> None:
    """See that there is a folder at a path; of a URL, that there is anything.

    Raises:
        StorageError: there is none.
    """
    from actframe.storage.folders import store_folder

    if not store_folder(path).exists():
        raise StorageError(f"there is no folder {path}{_meant(path)}")
    if "://" not in path and not os.path.isdir(path):
        raise StorageError(f"{path} is a file; give a folder")


def no_store_here(path: str) -> StorageError:
    """The error for something that is there, and is no store."""
    if store := _store_above(path):
        return StorageError(f"{path} is a part of the store {store}; give the store itself")
    if "://" not in path and not os.path.isdir(path):
        return StorageError(
            f"{path} is a file, and a store is a folder; `actframe show {shlex.quote(path)}` says what the file holds"
        )
    if "://" not in path and os.path.isfile(os.path.join(path, _ANSWERS)):
        return StorageError(
            f"{path} is no store: it holds a file for each answer, as --layout files writes them; "
            f"`actframe results` reads its answers, and show, stats, compare and convert take these files one by one"
        )
    if "://" not in path and not os.listdir(path):
        return StorageError(f"{path} is an empty folder, and no store")
    listed = f"`actframe ls {shlex.quote(path)}` lists the stores below it"
    return StorageError(f"{path} is {'' if '://' in path else 'a folder, and '}no store; {listed}")


def no_record_here(path: Path, command: str) -> StorageError:
    """The error for a folder where a command takes an activation file."""
    from actframe.storage.folders import store_folder
    from actframe.storage.identity import is_store

    if not is_store(store_folder(path)):
        return StorageError(
            f"cannot read {path}: it is a folder, not a file; `actframe ls {shlex.quote(str(path))}` lists the stores "
            f"below it"
        )
    return StorageError(
        f"{path} is a store, and {command} takes an activation file. `actframe show {shlex.quote(str(path))}` says "
        f"what is in the store; in Python, ActivationStore({str(path)!r})[0] is its first record, and "
        f"actframe.save_activations writes one to a file"
    )


def _store_above(path: str) -> str | None:
    """The store that a path is in, if it is one of a store's own."""
    from actframe.storage.folders import store_folder
    from actframe.storage.identity import IDENTITY

    is_url = "://" in path
    above = path.rstrip("/") if is_url else os.path.abspath(path)
    for _ in range(2):
        above, _, name = above.rpartition("/")
        if not above or not name or above.endswith("/"):
            return None
        with contextlib.suppress(StorageError):
            if IDENTITY in store_folder(above).sizes(""):
                return above if is_url or os.path.isabs(path) else os.path.relpath(above)
    return None


def _meant(path: str) -> str:
    """The nearest name to the first part of a path that is not there, if one is near."""
    from actframe.storage.folders import store_folder

    if "://" in path:
        above, _, name = path.rstrip("/").rpartition("/")
        with contextlib.suppress(StorageError):
            return nearest(name, store_folder(above).folders())
        return ""
    missing = Path(os.path.abspath(path))
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    with contextlib.suppress(OSError):
        found = nearest(missing.name, [name for name in os.listdir(missing.parent) if name[0] != "."])
        gone = "" if missing == Path(os.path.abspath(path)) else f", and no folder {missing} either"
        return f"{gone}{found}"
    return ""
