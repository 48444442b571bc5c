"""RemoteFiles: the files behind a URL, each there whole or not at all, and looked up afresh each time."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actframe.errors import StorageError, nearest

__all__ = ["RemoteFiles", "without_password"]

OBJECT_STORES = {"s3", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "memory"}
"""Protocols where what is written appears at once, in place of what was there, or not at all."""

CHUNK_BYTES = 8 * 1024**2
"""Large files go to S3 and come from there in chunks, ten of them at a time, all held in memory."""

MOST_CHUNKS = 10_000

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""The extra of actframe that installs what a protocol takes."""

_creating_in_memory = threading.Lock()


class RemoteFiles:
    """Files below a URL, through fsspec. Names are relative to it, and what goes wrong is raised as it comes.

    File systems of fsspec remember what they listed; here they are told to forget it before each look, since others
    may write beside us.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connect()
        if not self._root.strip("/"):
            raise StorageError(f"it names no folder; {url.rstrip('/:')}://bucket/run would")
        self.has_whole_writes = self._protocol in OBJECT_STORES

    @property
    def url(self) -> str:
        """The URL, for messages: in one spelling, and without a password."""
        if self._protocol in ("memory", "s3"):
            return f"{self._protocol}://{self._root.strip('/')}"
        return without_password(self._url).rstrip("/")

    def entries(self, below: str = "") -> dict[str, dict[str, Any]]:
        """What fsspec says of each file and folder directly in a folder, by name; nothing where there is none."""
        path = self._path(below)
        try:
            found = self._fresh(path).ls(path, detail=True)
        except FileNotFoundError as error:
            # A server that answers so has no such bucket. A folder is nothing but the names of the files in it.
            if hasattr(error.__cause__, "response"):
                raise
            return {}
        # Object stores may list a folder as an empty file within itself.
        names = ((info["name"].strip("/"), info) for info in found)
        return {name.rpartition("/")[2]: info for name, info in sorted(names) if name != path.strip("/")}

    def is_file(self) -> bool:
        """Whether the URL is that of a file."""
        try:
            self.info("")
        except (FileNotFoundError, IsADirectoryError):
            return False
        return True

    def info(self, name: str) -> dict[str, Any]:
        """What fsspec says of a file, `size` among it."""
        path = self._path(name)
        info: dict[str, Any] = self._fresh(path).info(path)
        if info["type"] != "file":
            raise IsADirectoryError("it is a folder, not a file")
        return info

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        try:
            self.info(name)
        except FileNotFoundError:
            return False
        return True

    def changed(self, name: str) -> float:
        """When a file was last changed, in seconds since 1970; now, where that is not known."""
        try:
            return float(self._fs.modified(self._path(name)).timestamp())
        except NotImplementedError:
            return time.time()

    def read(self, name: str, start: int, stop: int | None) -> bytes:
        """The bytes from `start` to `stop`, or as far as the file goes."""
        path = self._path(name)
        if not start and stop is None:
            return bytes(self._fresh(path).cat_file(path))
        try:
            if stop is None or start < stop:
                return bytes(self._fresh(path).cat_file(path, start=start, end=stop))
        except FileNotFoundError:
            raise
        except OSError:
            # Servers refuse a range that begins where the file ends.
            if start < self.info(name)["size"]:
                raise
        self.info(name)
        return b""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of one that may be there."""
        self._place(name, lambda path: self._fs.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none, and say whether that was so."""
        # In memory, fsspec looks and then writes.
        with _creating_in_memory if self._protocol == "memory" else contextlib.nullcontext():
            if self.has(name):
                return False
            created = self._create(name, content) if self.has_whole_writes else None
            if created is None:
                self.write(name, content)
            return created is not False

    def _create(self, name: str, content: bytes) -> bool | None:
        """Have the server see to it that there is no such file; None where it does not offer that."""
        try:
            self._fs.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError):
            return None
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return None
            raise
        return True

    def upload(self, path: Path, name: str) -> None:
        """Write a file from a local one."""
        options = {}
        if self._protocol == "s3":
            options["chunksize"] = max(CHUNK_BYTES, path.stat().st_size // (MOST_CHUNKS - 1))
        if self._protocol == "memory":
            # What is put there in any other way is seen while it grows.
            self.write(name, path.read_bytes())
        else:
            self._place(name, lambda place: self._fs.put_file(str(path), place, **options))

    def download(self, name: str, path: Path) -> None:
        """Write a local file from one here."""
        options = {"chunksize": CHUNK_BYTES} if self._protocol == "s3" else {}
        if self._protocol == "memory":
            path.write_bytes(self.read(name, 0, None))
        else:
            self._fs.get_file(self._path(name), str(path), **options)

    def rename(self, name: str, target: str) -> None:
        """Give a file a name that is new."""
        self._rename(self._path(name), self._path(target))

    def remove(self, name: str) -> None:
        """Delete a file."""
        self.info(name)
        self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _place(self, name: str, write: Callable[[str], Any]) -> None:
        """Have a file written to the path that `write` is given, and see that it appears at once."""
        path = self._path(name)
        if self.has_whole_writes:
            write(path)
            return
        folder = path.rpartition("/")[0]
        hidden = f"{folder}/.actframe-{secrets.token_hex(8)}"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            write(hidden)
            try:
                self._fs.mv(hidden, path)
            except OSError:
                # There are servers that rename onto no other file. And there are answers that get lost.
                if not self._fresh(hidden).exists(hidden) or not self.has(name):
                    raise
                self.remove(name)
                self._fs.mv(hidden, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(hidden)
            raise

    def _rename(self, source: str, target: str) -> None:
        if self.has_whole_writes:
            self._fs.cp_file(source, target)
            self._fs.rm_file(source)
        else:
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.mv(source, target)

    @property
    def _fs(self) -> Any:
        # A forked process cannot use the connections of the one that it was forked from.
        if self._process != os.getpid():
            self._connect()
        return self._filesystem

    def _fresh(self, path: str) -> Any:
        self._fs.invalidate_cache(path)
        return self._fs

    def _connect(self) -> None:
        # Only here, since most stores are on a disk.
        import fsspec

        protocol = self._url.partition("://")[0].partition("::")[0]
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(self._url)
        except ImportError as error:
            how = f"pip install 'actframe[{EXTRAS[protocol]}]'" if protocol in EXTRAS else str(error)
            raise StorageError(f"a package is missing that {protocol}:// takes: {how}") from error
        except ValueError as error:
            known = sorted({*fsspec.available_protocols(), *fsspec.registry})
            if protocol in known:
                raise
            hint = nearest(protocol, known)
            raise StorageError(f"there is no protocol {protocol!r}{hint}; there are {', '.join(known)}") from error
        kinds = self._filesystem.protocol
        self._protocol = kinds if isinstance(kinds, str) else kinds[0]
        self._process = os.getpid()


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)
