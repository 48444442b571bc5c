"""A plugin of actframe: records and stores as Zarr groups, `.zarr.zip` files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actframe import hookimpl

__all__ = ["extensions"]


@hookimpl
def extensions() -> Iterable[type[Any]]:
    """The backend; it is imported here, so that `actframe --help` does without Zarr and torch."""
    from actframe_zarr.backend import ZarrBackend

    return [ZarrBackend]
