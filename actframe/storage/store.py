"""ActivationStore: a run of any length, on disk, read as a list of records."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy

from actframe.errors import SettingsError, StorageError
from actframe.storage.backends import backend_named
from actframe.storage.folders import Log, StoreFolder, store_folder
from actframe.storage.identity import begin_store, read_identity
from actframe.storage.keys import RecordKeys, new_writer
from actframe.storage.ledger import Ledger
from actframe.storage.open_shards import OpenShards
from actframe.storage.recovery import recover
from actframe.storage.shards import ShardMaker, arrive
from actframe.storage.stacking import Numbers
from actframe.storage.view import StoreView
from actframe.storage.writer import BackgroundWriter, FlushEvery, StoreProgress

if TYPE_CHECKING:
    from actframe.storage.health import StoreReport

__all__ = ["ActivationStore"]

SHARD_BYTES = 256 << 20
FLUSH_EVERY = timedelta(minutes=5)


class ActivationStore(StoreView):
    """A folder of shards with a ledger: what a recorder writes into while the model works, and analysis reads.

        with ActivationStore("run") as store, ActivationRecorder(model, into=store):
            model.generate(**inputs, max_new_tokens=32)

        for record in ActivationStore("run").where(correct=False):
            record.activations["layer_12"]

    Records are written by a thread in the background. What `append` took is a promise, kept when `flush` or `close`
    returns: then it is on disk, and survives whatever happens to the process. Reading shows what was committed when
    the store was opened, or at the latest `flush` or `refresh` of this object.

    Several processes, on machines that share the disk too, may append to one store at once, and others read it
    meanwhile. Opening a store repairs what a process that was killed has left, with a warning.

    Args:
        path: a folder, or a URL such as `s3://bucket/run` or `memory://run`.
        backend: the storage backend of new shards. Default: what the store was begun with; for a new one safetensors.
        shard_bytes: from how many bytes on a shard is written.
        flush_every: a time (timedelta) or a number of records, after which what was appended is committed without a
            `flush`; each time ends a shard. None: only as shards fill.
        run: what defines the run whose records these are, JSON-safe: kept in `run.json` of a new store.
        create: whether to begin a store where there is none.

    Raises:
        StorageError: there is something else at the path, or nothing and `create` is False, or it cannot be read.
        UnknownNameError: no such backend.
        SettingsError: a size or time that makes no sense.
    """

    def __init__(
        self,
        path: Path | str,
        backend: str | None = None,
        *,
        shard_bytes: int = SHARD_BYTES,
        flush_every: FlushEvery = FLUSH_EVERY,
        run: Mapping[str, Any] | None = None,
        create: bool = True,
    ) -> None:
        self._writing = WritingSettings(shard_bytes, flush_every)
        self._folder = store_folder(path)
        asked = backend_named(backend).name if backend is not None else None
        if create and not self._folder.sizes("ledger") and "run.json" not in self._folder.sizes(""):
            begin_store(self._folder, asked or "safetensors", run)
        self._identity = read_identity(self._folder)
        self._backend = asked or self._identity.backend
        self._ledger = Ledger(self._folder)
        self._shards = OpenShards(self._folder)
        self._ledger.refresh()
        if notice := recover(self._folder, self._ledger, RecordKeys(self._identity.origin)):
            warnings.warn(notice, RuntimeWarning, stacklevel=2)
            self._ledger.refresh()
        self._writer: BackgroundWriter | None = None
        self._beginning = threading.RLock()
        self._is_beginning = False
        self._finalizer: Any = None
        self._closed = False

    # Writing.

    def begin(self) -> None:
        """Begin to write now and not with the first record: from here on others can tell that somebody does.

        Raises:
            StorageError: it cannot be written, or was closed.
        """
        self._begun()

    def append(self, record: Mapping[str, Any]) -> None:
        """Take a record: its tensors are copied, and written in the background. Waits while the disk is behind.

        Raises:
            StorageError: it is no record, or the store is closed, or it cannot be copied, or writing an earlier record
                failed: then this one was not taken, earlier ones are kept, and the next call tries again to write them.
        """
        arrival = arrive(record)
        self._begun().put(arrival)

    def flush(self) -> None:
        """Make everything that was appended so far durable, and visible to every reader.

        Raises:
            StorageError: it cannot be written; it is kept, and the next flush tries again.
        """
        writer = self._writer
        if writer is not None:
            writer.flush()
            self.refresh()

    def close(self) -> None:
        """Flush and stop writing; reading goes on. Closing twice does nothing.

        Raises:
            StorageError: records could not be written; the message says how many.
        """
        writer = self._writer
        if writer is not None and not writer.is_inherited:
            writer.check_caller()
        with self._beginning:
            self._closed, self._writer = True, None
            finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer()
            self.refresh()

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    @property
    def progress(self) -> StoreProgress:
        """How far the writer of this object has come."""
        writer = self._writer
        return writer.progress if writer is not None else StoreProgress()

    def _begun(self) -> BackgroundWriter:
        with self._beginning:
            if self._writer is None:
                if self._is_beginning:
                    raise StorageError("a signal handler cannot write to the store whose first record it interrupted")
                try:
                    self._is_beginning = True
                    self._writer = self._begin_writing()
                finally:
                    self._is_beginning = False
            return self._writer

    def _begin_writing(self) -> BackgroundWriter:
        if self._closed:
            raise StorageError(f"the store {self.location} was closed; open it again to append")
        name = new_writer()
        ledger = f"ledger/{name}.jsonl"
        with ExitStack() as undo:
            log = self._folder.open_log(ledger)
            undo.callback(_end_log, self._folder, log, ledger)
            maker = ShardMaker(self._folder, backend_named(self._backend), name, log, self._identity.run)
            settings = self._writing
            writer = BackgroundWriter(maker, settings.shard_bytes, settings.flush_every)
            # Also when nobody closes the store: at the latest when Python ends.
            self._finalizer = weakref.finalize(self, _finish, writer, self._folder, log, ledger)
            undo.pop_all()
        return writer

    # Reading, beside what every view can do.

    @property
    def numbers(self) -> Numbers:
        """Which records of the store these are: all."""
        return numpy.arange(len(self._ledger))

    def __len__(self) -> int:
        return len(self._ledger)

    def __repr__(self) -> str:
        return f"<ActivationStore {self.location!r} of {len(self)} records>"

    def __reduce__(self) -> Any:
        return _reopen, (self.location,)

    def refresh(self) -> None:
        """See what was committed since, by this process or another."""
        self._ledger.refresh()

    def verify(self) -> StoreReport:
        """Check every shard against its checksum, and every ledger line against its shard."""
        from actframe.storage.health import verify_store

        return verify_store(self._folder)

    @property
    def location(self) -> str:
        """The absolute path or the URL."""
        return self._folder.location

    @property
    def folder(self) -> StoreFolder:
        """Where the files are."""
        return self._folder

    @property
    def backend(self) -> str:
        """The storage backend of new shards."""
        return self._backend

    @property
    def run(self) -> dict[str, Any] | None:
        """What defines the run whose records these are, as `run.json` keeps it; None for records of other origin."""
        return self._identity.run

    @property
    def bytes_on_disk(self) -> int:
        """The size of all shards and ledgers, of every writer."""
        return sum(sum(self._folder.sizes(below).values()) for below in ("shards", "ledger"))


@dataclass(frozen=True)
class WritingSettings:
    """How a store writes; the arguments of `ActivationStore`."""

    shard_bytes: int
    flush_every: FlushEvery

    def __post_init__(self) -> None:
        if type(self.shard_bytes) is not int or self.shard_bytes < 1:
            raise SettingsError(f"shard_bytes is {self.shard_bytes!r}; it must be a whole number of bytes, at least 1")
        every = self.flush_every
        records, time = type(every) is int and every >= 1, isinstance(every, timedelta) and every > timedelta(0)
        if not (every is None or records or time):
            raise SettingsError(f"flush_every is {every!r}; it must be a timedelta, a number of records, or None")


def _finish(writer: BackgroundWriter, folder: StoreFolder, log: Log, ledger: str) -> None:
    """Close what a store wrote with. What a forked process inherited is its parent's."""
    if writer.is_inherited:
        return
    if writer.is_caller:
        # It collects garbage, and the store is among it. It cannot wait for itself, and others wait for this thread.
        threading.Thread(target=_finish, args=(writer, folder, log, ledger), name="actframe-closer").start()
        return
    try:
        writer.close()
    finally:
        # Where waiting was interrupted, the thread may be at the ledger.
        if not writer.is_running:
            _end_log(folder, log, ledger)


def _end_log(folder: StoreFolder, log: Log, name: str) -> None:
    """Close a ledger, and remove it where nothing was ever written."""
    empty = not log.size
    log.close()
    if empty:
        folder.remove(name)


def _reopen(location: str) -> ActivationStore:
    return ActivationStore(location, create=False)
