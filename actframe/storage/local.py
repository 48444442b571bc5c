"""LocalFolder: a store on a disk of this machine, or on one that it shares."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import weakref
from io import FileIO
from pathlib import Path

from actframe.errors import StorageError
from actframe.storage.atomic import (
    check_writable,
    make_folder,
    rename_new,
    replacing,
    sync,
    sync_folder,
    temporary_file,
)
from actframe.storage.store_folder import Log, StoreFolder, check_name, storage_errors

if sys.platform != "win32":
    import fcntl

__all__ = ["LocalFolder"]

HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LocalFolder(StoreFolder):
    """A folder on a disk; it need not be there yet.

    A log is locked with flock as long as its writer has it open, and by nothing else: when a process ends, however it
    ends, the system lets go of its locks. On a disk that machines share, they must share its locks too, as NFS does
    by default. Where a file system has none, no log is ever adopted.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(os.path.abspath(path))
        self.location = str(self.path)

    def exists(self) -> bool:
        with storage_errors(f"cannot look for {self.location}"):
            try:
                self.path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def sizes(self, below: str) -> dict[str, int]:
        files = self._statuses(below)
        return {name: files[name].st_size for name in sorted(files) if not name.startswith(".")}

    def folders(self) -> list[str]:
        with storage_errors(f"cannot list {self.location}"):
            try:
                with os.scandir(self.path) as entries:
                    return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
            except FileNotFoundError:
                return []

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        path = self._path(name)
        with storage_errors(f"cannot read {path}"):
            _check_file(path)
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(start)
                return file.read(max(0, min(size, size if stop is None else stop) - start))

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with storage_errors(f"cannot write {path}"):
            make_folder(path.parent)
            with replacing(path) as temporary:
                temporary.write_bytes(content)

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with storage_errors(f"cannot write {path}"):
            make_folder(path.parent)
            with temporary_file(path.parent) as temporary:
                temporary.write_bytes(content)
                sync(temporary)
                try:
                    rename_new(temporary, path)
                except FileExistsError:
                    return False
            sync_folder(path.parent)
            return True

    def workspace(self) -> Path:
        folder = self.path / "shards"
        with storage_errors(f"cannot make {folder}"):
            make_folder(folder)
        return folder

    def publish(self, path: Path, name: str) -> None:
        with storage_errors(f"cannot write {self._path(name)}"):
            # A run writes more than fits into memory, and reads none of it. Left there it would push out what the user
            # needs, and each shard would take memory from the system that was never touched, which is slow.
            sync(path, leave_memory=True)
        self._rename(path, self._path(name))

    def local(self, name: str) -> Path:
        path = self._path(name)
        with storage_errors(f"cannot read {path}"):
            _check_file(path)
        return path

    def move(self, name: str, target: str) -> None:
        self._rename(self._path(name), self._path(target))

    def remove(self, name: str) -> None:
        path = self._path(name)
        with storage_errors(f"cannot delete {path}"):
            path.unlink()
            sync_folder(path.parent)

    def open_log(self, name: str) -> LocalLog:
        path = self._path(name)
        with storage_errors(f"cannot begin {path}"):
            make_folder(path.parent)
            with temporary_file(path.parent) as temporary, contextlib.ExitStack() as undo:
                file = undo.enter_context(temporary.open("r+b", buffering=0))
                # It is locked before it has its name: no one ever sees it as that of a writer that ended.
                _lock(file)
                rename_new(temporary, path)
                sync_folder(path.parent)
                undo.pop_all()
            return LocalLog(path, file)

    def adopt_log(self, name: str) -> LocalLog | None:
        path = self._path(name)
        with storage_errors(f"cannot open {path}"):
            _check_file(path)
            with contextlib.ExitStack() as undo:
                file = undo.enter_context(path.open("r+b", buffering=0))
                # Between opening and locking, another may have put another file in its place.
                if not _lock(file) or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return None
                undo.pop_all()
            return LocalLog(path, file)

    def has_writer(self, name: str) -> bool:
        path = self._path(name)
        with storage_errors(f"cannot open {path}"):
            _check_file(path)
            with path.open("rb", buffering=0) as file:
                return _is_locked(file)

    def is_writable(self) -> bool:
        try:
            for folder in (_nearest(self.path), *(self.path / name for name in self.folders())):
                check_writable(folder)
        except OSError:
            return False
        return True

    def free_bytes(self) -> int | None:
        with storage_errors(f"cannot ask for the free space of {self.location}"):
            return shutil.disk_usage(_nearest(self.path)).free

    def _path(self, name: str) -> Path:
        return self.path / check_name(name)

    def _rename(self, source: Path, target: Path) -> None:
        with storage_errors(f"cannot rename {source} to {target}"):
            make_folder(target.parent)
            rename_new(source, target)
            sync_folder(target.parent)
            if source.parent != target.parent:
                sync_folder(source.parent)

    def _statuses(self, below: str) -> dict[str, os.stat_result]:
        """What the system says of each file directly in a folder."""
        folder = self._path(below) if below else self.path
        found = {}
        with storage_errors(f"cannot list {folder}"):
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        # Another process may delete it meanwhile.
                        with contextlib.suppress(FileNotFoundError):
                            if entry.is_file():
                                found[entry.name] = entry.stat()
            except FileNotFoundError:
                return {}
        return found

    def _hidden(self, below: str) -> dict[str, float]:
        files = self._statuses(below)
        return {name: files[name].st_mtime for name in sorted(files) if name.startswith(".")}


class LocalLog(Log):
    """A file that is locked as long as it is open.

    A forked process closes its copies at once: they would keep the lock when this process is gone.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self._torn_at: int | None = None
        _open_logs.add(self)

    @property
    def size(self) -> int:
        with storage_errors(f"cannot read {self._path}"):
            return os.fstat(self._open().fileno()).st_size

    def append(self, content: bytes) -> None:
        with storage_errors(f"cannot write {self._path}"):
            file = self._open()
            if self._torn_at is not None:
                # Until this has worked, whatever came after a torn line would be lost with it.
                self._cut(file, self._torn_at)
            start = file.seek(0, os.SEEK_END)
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException:
                self._torn_at = start
                self._cut(file, start)
                raise

    def truncate(self, size: int) -> None:
        """Cut off what comes after `size` bytes."""
        with storage_errors(f"cannot write {self._path}"):
            self._cut(self._open(), size)

    def close(self) -> None:
        _open_logs.discard(self)
        self._file.close()

    def _cut(self, file: FileIO, size: int) -> None:
        file.truncate(size)
        os.fsync(file.fileno())
        self._torn_at = None

    def _open(self) -> FileIO:
        if self._file.closed:
            raise StorageError("it is closed, or was opened by the process that this one was forked from")
        return self._file


_open_logs: weakref.WeakSet[LocalLog] = weakref.WeakSet()


def _close_logs() -> None:
    for log in list(_open_logs):
        log.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_logs)


def _lock(file: FileIO) -> bool:
    """Whether the file is now locked: False where another has the lock, or the file system has none."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD_BY_ANOTHER + NO_LOCKS:
            raise
        return False
    return True


def _is_locked(file: FileIO) -> bool:
    """Whether another has the lock for certain."""
    if sys.platform == "win32":
        return False
    try:
        # Shared, so that two who ask at once do not take each other for a writer.
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD_BY_ANOTHER + NO_LOCKS:
            raise
        return error.errno in HELD_BY_ANOTHER
    return False


def _check_file(path: Path) -> None:
    """Refuse what would block or make no sense to read."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise StorageError("it is a folder, not a file" if stat.S_ISDIR(mode) else "it is no ordinary file")


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
