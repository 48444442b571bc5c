"""The folder that a store's path or URL means."""

from __future__ import annotations

import os
import re
from pathlib import Path

from actframe.errors import StorageError
from actframe.storage.local import LocalFolder
from actframe.storage.remote import RemoteFolder
from actframe.storage.store_folder import Log, StoreFolder

__all__ = ["LocalFolder", "Log", "RemoteFolder", "StoreFolder", "store_folder"]


def store_folder(path: Path | str) -> StoreFolder:
    """The folder of a store at a path or a URL; neither has to exist yet.

    >>> store_folder("memory://runs/first")
    RemoteFolder('memory://runs/first')

    Raises:
        StorageError: no installed package knows the URL's protocol.
    """
    text = os.fspath(path)
    local = re.match(r"(?:file|local)://", text)
    if local:
        return LocalFolder(text[local.end() :])
    if "://" in text:
        return RemoteFolder(text)
    # A Path makes one slash of two, and the store would go to a folder called `s3:`.
    broken = re.match(r"([a-z][a-z0-9+]+):/(?=[^/])", text)
    if broken:
        url = f"{broken[1]}://{text[broken.end() :]}"
        raise StorageError(f"cannot open {text}: a URL is given as a string, with two slashes: {url!r}")
    return LocalFolder(text)
