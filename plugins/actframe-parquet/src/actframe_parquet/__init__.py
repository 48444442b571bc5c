"""A plugin of actframe: records and stores as Parquet tables, `.parquet` files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actframe import hookimpl

__all__ = ["extensions"]


@hookimpl
def extensions() -> Iterable[type[Any]]:
    """The backend; it is imported here, so that `actframe --help` does without Arrow and torch."""
    from actframe_parquet.backend import ParquetBackend

    return [ParquetBackend]
