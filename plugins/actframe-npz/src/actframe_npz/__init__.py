"""A plugin of actframe: records as NumPy `.npz` files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actframe import hookimpl

__all__ = ["extensions"]


@hookimpl
def extensions() -> Iterable[type[Any]]:
    """The backend; it is imported here, so that `actframe --help` does without NumPy and torch."""
    from actframe_npz.backend import NpzBackend

    return [NpzBackend]
