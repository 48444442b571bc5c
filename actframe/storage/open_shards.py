"""OpenShards: the shards of a store that were read last, ready to be read again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from actframe.records.shard import Shard
from actframe.storage.failures import failing
from actframe.storage.files import read_bundle
from actframe.storage.store_folder import StoreFolder

__all__ = ["OpenShards"]

MOST = 16


class OpenShards:
    """Shards by name. Of those that keep columns in memory only the latest stays open.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        """The path or URL of the store."""
        return self._folder.location

    def get(self, name: str) -> Shard:
        """The shard of that name.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        with self._lock:
            shard = self._shards.pop(name, None) or self._open(name)
            self._shards[name] = shard
            for other, each in list(self._shards.items()):
                if other != name and (len(self._shards) > MOST or (shard.keeps_columns and each.keeps_columns)):
                    del self._shards[other]
            return shard

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._shards.clear()

    def __reduce__(self) -> Any:
        return type(self), (self._folder,)

    def _open(self, name: str) -> Shard:
        with failing(f"cannot read the shard {name} of {self._folder.location}", after="; try `actframe verify`"):
            return Shard(read_bundle(self._folder.local(f"shards/{name}")))
