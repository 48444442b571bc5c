"""Whatever goes wrong with a file becomes one kind of error, which says what was attempted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from actframe.errors import ActframeError, FormatError, StorageError, UnsafeFileError
from actframe.storage.backends import describe
from actframe.storage.base import StorageBackend

__all__ = ["failing"]


@contextlib.contextmanager
def failing(what: str, backend: StorageBackend | None = None, after: str = "") -> Iterator[None]:
    """Turn whatever is raised into an ActframeError that begins with `what`, chained to its cause."""
    try:
        yield
    except StorageError as error:
        kind = next(kind for kind in (UnsafeFileError, FormatError, StorageError) if isinstance(error, kind))
        failure = kind(f"{what}: {error}{after}")
        failure.errno = error.errno
        raise failure from error
    except ActframeError:
        raise
    except OSError as error:
        # Some libraries raise it without a number, and with the reason in the text alone.
        reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
        failure = StorageError(f"{what}: {reason}{after}")
        failure.errno = error.errno
        raise failure from error
    except Exception as error:
        by = f" ({describe(backend)})" if backend else ""
        raise StorageError(f"{what}{by}: {type(error).__name__}: {error}{after}") from error
