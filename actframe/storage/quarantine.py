"""The folder `quarantine` of a store: nothing that is taken out of a store is deleted."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import count

from actframe.errors import StorageError
from actframe.storage.store_folder import StoreFolder

__all__ = ["QUARANTINE", "keep_copy", "put_aside"]

QUARANTINE = "quarantine"


def put_aside(folder: StoreFolder, name: str) -> str:
    """Move a file to the quarantine, and return its name there; another that is there already stays."""
    taken = folder.sizes(QUARANTINE)
    target = next(target for target in _names(name) if target not in taken)
    folder.move(name, f"{QUARANTINE}/{target}")
    return f"{QUARANTINE}/{target}"


def keep_copy(folder: StoreFolder, name: str) -> str | None:
    """Copy a file to the quarantine before it is written anew, and return the name of the copy; None if it is empty.

    What is there already is not copied again.
    """
    content = folder.read(name)
    if not content:
        return None
    paths = (f"{QUARANTINE}/{target}" for target in _names(name))
    return next(path for path in paths if folder.create(path, content) or _is(folder, path, content))


def _is(folder: StoreFolder, name: str, content: bytes) -> bool:
    try:
        return folder.read(name) == content
    except StorageError as error:
        if error.errno == errno.ENOENT:
            return False
        raise


def _names(name: str) -> Iterator[str]:
    """What a file may be called in the quarantine, one after the other."""
    own = name.rpartition("/")[2]
    yield own
    for number in count(2):
        yield f"{own}.{number}"
