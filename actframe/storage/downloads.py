"""Downloads: copies of remote files on a local disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KEPT_BYTES", "Downloads", "Scratch"]

KEPT_BYTES = 2 * 1024**3


class Scratch:
    """A local folder that is made when it is first asked for, and deleted with this object or at the end.

    A forked process has its own inside that of the process it was forked from, which deletes both: forked workers
    often end without a chance to.
    """

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir()) / f"actframe-{secrets.token_hex(8)}"
        weakref.finalize(self, _delete, self._path, os.getpid())

    def folder(self, name: str) -> Path:
        """The folder `name` of this process; only the user can look inside."""
        self._path.mkdir(0o700, exist_ok=True)
        folder = self._path / str(os.getpid()) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass
class _Copy:
    path: Path
    version: Hashable
    size: int


class Downloads:
    """Copies of remote files, of which the least recently used are deleted first.

    Threads may ask at once; different files are then fetched at once.
    """

    def __init__(self, scratch: Scratch, limit_bytes: int = KEPT_BYTES) -> None:
        self._scratch = scratch
        self._limit_bytes = limit_bytes
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, name: str, version: Hashable, size: int, fetch: Callable[[Path], None]) -> Path:
        """The path of a copy of `name` in its `version`, for which `fetch` is called if there is none.

        It stays there until copies that were asked for later need its room.
        """
        with self._lock:
            fetching = self._fetching[name]
        with fetching:
            with self._lock:
                copy = self._copies.get(name)
                if copy and copy.version == version and copy.path.exists():
                    self._copies.move_to_end(name)
                    return copy.path
                self._forget(name)
                self._make_room(size)
            path = self._scratch.folder("downloads") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fetch(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            with self._lock:
                # Others may have come meanwhile.
                self._make_room(size)
                self._copies[name] = _Copy(path, version, size)
            return path

    def forget(self, name: str) -> None:
        """Delete the copy of a file that is no longer there."""
        with self._lock:
            self._forget(name)

    def _make_room(self, size: int) -> None:
        while self._copies and size + sum(copy.size for copy in self._copies.values()) > self._limit_bytes:
            self._forget(next(iter(self._copies)))

    def _forget(self, name: str) -> None:
        copy = self._copies.pop(name, None)
        if copy:
            # Someone may have tidied the folder away, and on Windows a file that is being read stays.
            with contextlib.suppress(OSError):
                copy.path.unlink()


def _delete(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
