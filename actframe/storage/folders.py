"""The folder that a store's path or URL means."""

from __future__ import annotations

from pathlib import Path

from actframe.storage.local import LocalFolder
from actframe.storage.store_folder import Log, StoreFolder

__all__ = ["LocalFolder", "Log", "StoreFolder", "store_folder"]


def store_folder(path: Path | str) -> StoreFolder:
    """The folder of a store at a path or a URL; neither has to exist yet.

    >>> store_folder("runs/first").location.endswith("runs/first")
    True
    """
    return LocalFolder(path)
