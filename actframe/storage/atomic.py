"""Writing a file in one step: whoever reads it sees the old file or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["check_writable", "make_folder", "rename_new", "replacing", "sync", "sync_folder", "temporary_file"]


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A new, empty file beside `path`, which takes its place when the block ends without an error.

    The block writes to the path it is given, which begins with `.actframe-` and ends with `suffix`. What it wrote
    reaches the disk before the name changes hands, and the name reaches it before this returns. After an error, an
    interrupt included, nothing of it remains and the old file is untouched.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "answer.txt") as temporary:
    ...     count = temporary.write_text("42")
    >>> [file.name for file in folder.iterdir()]
    ['answer.txt']
    """
    # A link stays, and what it points to is replaced.
    target = Path(os.path.realpath(path))
    with temporary_file(target.parent, suffix) as temporary:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
    sync_folder(target.parent)


@contextlib.contextmanager
def temporary_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """A new, empty, hidden file of `folder`: gone when the block ends, unless the block gave it another name."""
    temporary = folder / f".actframe-{secrets.token_hex(8)}{suffix}"
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to what nothing is called yet; of several that want one name, one gets it.

    Raises:
        FileExistsError: there is something of that name.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        # Over a network a link can be made, its answer be lost, and the second attempt find the first.
        if not os.path.samestat(os.lstat(source), os.lstat(target)):
            raise
    except OSError:
        # Not every file system has links. An empty file holds the name for the moment until the whole one replaces
        # it. Where the reason was another, it is this that says so.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(source, target)
        return
    source.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing; their names are on disk when this returns."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def check_writable(folder: Path) -> None:
    """Raise the OSError that writing a file in `folder` would raise: only trying tells the truth about that."""
    with temporary_file(folder):
        pass


def sync(path: Path, *, leave_memory: bool = False) -> None:
    """Wait until what a file holds is on disk; it may leave the system's memory then, if so asked."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if leave_memory and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk, where the file system lets one wait for that."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
