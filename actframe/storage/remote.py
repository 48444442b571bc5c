"""RemoteFolder: a store behind a URL, such as on object storage."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from actframe.errors import StorageError
from actframe.storage.downloads import Downloads, Scratch
from actframe.storage.remote_files import RemoteFiles, without_password
from actframe.storage.store_folder import Log, StoreFolder, check_name, storage_errors

__all__ = ["PART_BYTES", "RemoteFolder"]

PART_BYTES = 8 * 1024**2
"""A log goes on in a new part once one has more than this."""

VERSION_KEYS = ("size", "ETag", "etag", "generation", "LastModified", "last_modified", "updated", "mtime", "created")
"""What file systems say of a file that is different when the file is."""


class RemoteFolder(StoreFolder):
    """A folder behind a URL that fsspec understands; it need not be there yet.

    Credentials and the like come from where the protocol's package looks for them: the environment, files in the home
    directory, fsspec's own configuration.

    Object storage has neither files that grow nor locks. A log is in parts, `ledger/w-0001.jsonl` and so on, of which
    the last is written anew by each append; and no log is ever adopted.
    """

    def __init__(self, url: str) -> None:
        with storage_errors(f"cannot open {without_password(url)}"):
            self._files = RemoteFiles(url)
            self._scratch = Scratch()
        self._url = url
        self.location = self._files.url
        self._copies = (os.getpid(), Downloads(self._scratch))

    def __reduce__(self) -> tuple[Callable[[str], RemoteFolder], tuple[str]]:
        return type(self), (self._url,)

    def exists(self) -> bool:
        with storage_errors(f"cannot look for {self.location}"):
            return bool(self._files.entries()) or self._files.is_file()

    def sizes(self, below: str) -> dict[str, int]:
        return {name: size for name, size in self._sizes(below).items() if not name.startswith(".")}

    def folders(self) -> list[str]:
        with storage_errors(f"cannot list {self.location}"):
            found = self._files.entries()
            return [name for name, info in found.items() if info["type"] == "directory" and not name.startswith(".")]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with storage_errors(f"cannot read {self._named(name)}"):
            return self._files.read(name, start, stop)

    def write(self, name: str, content: bytes) -> None:
        with storage_errors(f"cannot write {self._named(name)}"):
            self._files.write(name, content)

    def create(self, name: str, content: bytes) -> bool:
        with storage_errors(f"cannot write {self._named(name)}"):
            return self._files.create(name, content)

    def workspace(self) -> Path:
        with storage_errors(f"cannot make a local folder for what goes to {self.location}"):
            return self._scratch.folder("shards")

    def publish(self, path: Path, name: str) -> None:
        with storage_errors(f"cannot write {self._named(name)}"):
            self._check_new(name)
            size = path.stat().st_size
            try:
                self._files.upload(path, name)
                _check_whole(self._files.info(name)["size"], size)
            except BaseException:
                # It may have arrived all the same, and would be in the way of the next attempt.
                with contextlib.suppress(Exception):
                    self._files.remove(name)
                raise
            path.unlink()

    def local(self, name: str) -> Path:
        def fetch(path: Path) -> None:
            self._files.download(name, path)
            _check_whole(path.stat().st_size, info["size"])

        with storage_errors(f"cannot read {self._named(name)}"):
            info = self._files.info(name)
            version = tuple(str(info.get(key)) for key in VERSION_KEYS)
            return self._downloads.get(name, version, info["size"], fetch)

    def changed(self, name: str) -> float:
        with storage_errors(f"cannot read {self._named(name)}"):
            return self._files.changed(name)

    def move(self, name: str, target: str) -> None:
        with storage_errors(f"cannot rename {self._named(name)} to {self._named(target)}"):
            self._check_new(target)
            self._files.rename(name, target)
        self._downloads.forget(name)

    def remove(self, name: str) -> None:
        with storage_errors(f"cannot delete {self._named(name)}"):
            self._files.remove(name)
        self._downloads.forget(name)

    def open_log(self, name: str) -> Log:
        folder, _, last = check_name(name).rpartition("/")
        stem, suffix = os.path.splitext(last)
        for other in self.sizes(folder):
            if other == last or re.fullmatch(re.escape(stem) + r"-\d{4,}" + re.escape(suffix), other):
                with storage_errors(f"cannot begin {self._named(name)}"):
                    raise FileExistsError(f"there is a log of that name: {other}")
        return RemoteLog(self, name, self._files.has_whole_writes)

    def adopt_log(self, name: str) -> Log | None:
        return None

    def is_writable(self) -> bool:
        name = f".actframe-{secrets.token_hex(8)}"
        try:
            self.write(name, b"written to find out whether that is possible")
            self.remove(name)
        except StorageError:
            return False
        return True

    def free_bytes(self) -> int | None:
        return None

    @property
    def _downloads(self) -> Downloads:
        # A forked process has no say in what the other keeps, nor in its locks.
        if self._copies[0] != os.getpid():
            self._copies = (os.getpid(), Downloads(self._scratch))
        return self._copies[1]

    def _named(self, name: str) -> str:
        return f"{self.location}/{check_name(name)}"

    def _check_new(self, name: str) -> None:
        if self._files.has(name):
            raise FileExistsError("there is a file of that name")

    def _sizes(self, below: str) -> dict[str, int]:
        with storage_errors(f"cannot list {self._named(below) if below else self.location}"):
            found = self._files.entries(below)
            return {name: info["size"] for name, info in found.items() if info["type"] == "file"}

    def _hidden(self, below: str) -> dict[str, float]:
        names = [name for name in self._sizes(below) if name.startswith(".")]
        with storage_errors(f"cannot list {self.location}"):
            return {name: self._files.changed(f"{below}/{name}" if below else name) for name in names}


class RemoteLog(Log):
    """A log in parts, since files on object storage do not grow.

    An append writes the last part again, with more at its end. Where a file that is replaced could be lost if the
    process ends meanwhile, each append is a part of its own.
    """

    def __init__(self, folder: RemoteFolder, name: str, replaces_whole: bool) -> None:
        self._folder = folder
        self._stem, self._suffix = os.path.splitext(name)
        self._limit_bytes = PART_BYTES if replaces_whole else 0
        self._part = 1
        self._content = b""
        self._earlier_bytes = 0
        self._is_open = True

    @property
    def size(self) -> int:
        return self._earlier_bytes + len(self._content)

    def append(self, content: bytes) -> None:
        part, before = self._part, self._content
        if len(before) > self._limit_bytes:
            part, before = part + 1, b""
        name = f"{self._stem}-{part:04d}{self._suffix}"
        if not self._is_open:
            raise StorageError(f"cannot write {self._folder.location}/{name}: the log is closed")
        self._folder.write(name, before + content)
        if part != self._part:
            self._earlier_bytes += len(self._content)
        self._part, self._content = part, before + content

    def close(self) -> None:
        self._is_open = False


def _check_whole(arrived: int, expected: int) -> None:
    if arrived != expected:
        raise StorageError(f"{arrived} of {expected} bytes arrived")
