"""Writing a file in one step: whoever reads it sees the old file or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["check_writable", "replacing"]


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
    temporary = _temporary(target.parent, suffix)
    try:
        _create(temporary)
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise
    _sync(target.parent)


def check_writable(folder: Path) -> None:
    """Raise the OSError that writing a file in `folder` would raise: only trying tells the truth about that."""
    temporary = _temporary(folder, "")
    try:
        _create(temporary)
    finally:
        _remove(temporary)


def _temporary(folder: Path, suffix: str) -> Path:
    return folder / f".actframe-{secrets.token_hex(8)}{suffix}"


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
