"""What a worker in another process needs of a run: its model and its store, in a form that can be pickled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from actframe.errors import ModelError, StorageError
from actframe.runs.engines import Written
from actframe.runs.identity import describe_model
from actframe.runs.models import LoadedModel, ModelSource, load_model
from actframe.storage.store import ActivationStore

__all__ = ["StorePlace", "TravellingModel", "written_by"]


@dataclass(frozen=True)
class TravellingModel:
    """A model on its way to another process: by name where it was loaded by one, and else as it is.

    Attributes:
        source: what it was loaded by.
        tokenizer: with which it is used.
        described: what tells it from others, as `describe_model`.
        whole: the model itself, where it has no source.
    """

    source: ModelSource | None
    tokenizer: Any
    described: Mapping[str, Any]
    whole: LoadedModel | None

    @classmethod
    def of(cls, loaded: LoadedModel) -> TravellingModel:
        """Of a model in this process."""
        whole = loaded if loaded.source is None else None
        return cls(loaded.source, loaded.tokenizer, describe_model(loaded), whole)

    def load(self) -> LoadedModel:
        """The model in this process.

        Raises:
            ModelError: it cannot be loaded here, or what its name leads to here is another model.
        """
        if self.source is None:
            assert self.whole is not None
            return self.whole
        loaded = load_model(self.source.name, device=self.source.device, dtype=self.source.dtype)
        loaded = dataclasses.replace(loaded, name=self.described["name"], tokenizer=self.tokenizer)
        if (found := describe_model(loaded)) != self.described:
            differing = [
                f"{key} {self.described[key]} -> {found[key]}" for key in found if found[key] != self.described[key]
            ]
            raise ModelError(
                f"the model {self.source.name!r} of this worker is not that of the run (there -> here): "
                f"{'; '.join(differing)}. Workers load a model by its name: all machines must have the same, and a "
                f"model that was changed since it was loaded must be saved in a folder and loaded from there"
            )
        return loaded


@dataclass(frozen=True)
class StorePlace:
    """The store of a run, for workers that write with a writer of their own.

    Attributes:
        location: its path or URL, the same for every worker.
        backend, shard_bytes, flush_every: as in `ActivationStore`.
        run: what its `run.json` says.
    """

    location: str
    backend: str
    shard_bytes: int
    flush_every: timedelta | int | None
    run: Mapping[str, Any] | None

    def open(self) -> ActivationStore:
        """The store, open in this process.

        Raises:
            StorageError: there is none here, or it is another one.
        """
        why = "every machine that has workers must see the folder of the run at the same path, or give it a URL"
        try:
            store = ActivationStore(
                self.location,
                self.backend,
                shard_bytes=self.shard_bytes,
                flush_every=self.flush_every,
                create=False,
            )
        except StorageError as error:
            raise StorageError(f"a worker cannot open the store of the run: {error}; {why}") from error
        if store.run != self.run:
            raise StorageError(f"what a worker finds at {self.location} is not the store of the run; {why}")
        return store


def written_by(store: ActivationStore) -> Written:
    """What an open store has written, and has to."""
    now = store.progress
    return Written(now.bytes_written, now.queued_records, now.queued_bytes, now.bytes_per_second)
