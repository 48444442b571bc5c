"""StoreFolder, the contract of the place where a store's files are."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from actframe.errors import StorageError

__all__ = ["Log", "StoreFolder", "check_name", "storage_errors"]

SWEPT = ("", "ledger", "shards", "quarantine")
"""Where a process that was killed may have left hidden files."""

ABANDONED_SECONDS = 24 * 3600
"""A hidden file that does not say whose it is belongs to no one after this long."""


class StoreFolder(ABC):
    """Where a store's files are: a folder on a disk, or one behind a URL.

    Files are named relative to it, with a slash: `shards/x.safetensors`. Whatever goes wrong is a `StorageError` that
    says where and why; `errno.ENOENT` is that of a file that is not there. Folders can be pickled, and used in a
    forked process.
    """

    location: str
    """The absolute path or the URL, for messages."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is anything at the location."""

    @abstractmethod
    def sizes(self, below: str) -> dict[str, int]:
        """The bytes of each visible file directly in a folder (`""`: the store itself), by name, in order.

        Looked up each time. A folder that is not there has no files.
        """

    @abstractmethod
    def folders(self) -> list[str]:
        """The names of the visible folders directly in the store, in order."""

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop`, or as far as the file goes."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file in one durable step, in place of one that may be there."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write a file in one durable step if there is none; say whether that was so.

        Of several that try at once, one is told True.
        """

    @abstractmethod
    def workspace(self) -> Path:
        """A folder on a local disk to make a shard in, under a hidden name."""

    @abstractmethod
    def publish(self, path: Path, name: str) -> None:
        """Make a finished file of the workspace durable, and give it its name, which must be new.

        It is whole wherever it is visible, and no longer in the workspace when this returns. After an error it is
        where it was.
        """

    @abstractmethod
    def local(self, name: str) -> Path:
        """A path to read a file from.

        Of a remote file it is a copy, which is fetched again if the file changed. Copies beyond 2 GiB in all make the
        one go that was asked for least recently, so a path is for use now and not to be kept.
        """

    def changed(self, name: str) -> float:
        """When a file was last changed, in seconds since 1970; now, where that is not known."""
        with storage_errors(f"cannot read {self.location}/{name}"):
            return self.local(name).stat().st_mtime

    @abstractmethod
    def move(self, name: str, target: str) -> None:
        """Give a file another name, which must be new."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file."""

    @abstractmethod
    def open_log(self, name: str) -> Log:
        """Begin a log, which no other may adopt as long as this process keeps it open. The name must be new."""

    @abstractmethod
    def adopt_log(self, name: str) -> Log | None:
        """Open a log whose writer has ended; None where it still writes, or where no one can tell."""

    def has_writer(self, name: str) -> bool:
        """Whether a log is known to be open in a process that still runs; False also where no one can tell."""
        return False

    @abstractmethod
    def is_writable(self) -> bool:
        """Whether files can be written here, which is tried."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """How much more fits on the disk; None where that has no answer."""

    def discard_leftovers(self, alive: Callable[[str], bool]) -> list[str]:
        """Delete what ended processes left half-written, and return the names.

        These are hidden files that begin with the name of a writer for which `alive` says False, and temporary ones
        a day old.
        """
        begun = time.time() - ABANDONED_SECONDS
        found = []
        for below in SWEPT:
            for name, changed in self._hidden(below).items():
                writer = re.match(r"\.(\d{8}T\d{6}Z-[0-9a-f]+)-", name)
                if (not alive(writer[1])) if writer else name.startswith(".actframe-") and changed < begun:
                    found.append(f"{below}/{name}" if below else name)
        for name in found:
            try:
                self.remove(name)
            except StorageError as error:
                # Another that opens the store does the same.
                if error.errno != errno.ENOENT:
                    raise
        return found

    @abstractmethod
    def _hidden(self, below: str) -> dict[str, float]:
        """When each hidden file directly in a folder was last changed, in seconds since 1970."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"


class Log(ABC):
    """A file that only grows, written by one process, from one thread at a time."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many bytes it has."""

    @abstractmethod
    def append(self, content: bytes) -> None:
        """Add to the end; it is on disk when this returns. After an error the log is as it was before."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it: others may adopt it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_name(name: str) -> str:
    """The name, which cannot lead out of the store.

    Ledgers name files, and a ledger may come from anywhere.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\\:\0]", name):
        raise StorageError(f"{name!r} cannot be the name of a store's file; 'shards/x.safetensors' could")
    return name


ERRNOS: dict[type[Exception], int] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
}
"""What the system's number would be where a library raises the error without one."""


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn whatever is raised into a StorageError that begins with `what`, chained to its cause."""
    try:
        yield
    except Exception as error:
        failure = StorageError(f"{what}: {_reason(error)}")
        failure.errno = getattr(error, "errno", None) or ERRNOS.get(type(error))
        raise failure from error


def _reason(error: Exception) -> str:
    if isinstance(error, StorageError):
        return str(error)
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    if error.errno:
        return error.strerror or os.strerror(error.errno)
    if isinstance(error, FileNotFoundError) and not hasattr(error.__cause__, "response"):
        # Without an answer of a server, libraries give the path alone, which is in the message already.
        return "there is no such file"
    return str(error) or type(error).__name__
