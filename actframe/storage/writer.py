"""BackgroundWriter: packing, compression and disk in one thread beside the model, one shard behind it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from actframe.errors import StorageError
from actframe.storage.shards import Arrival, ShardDraft, ShardMaker

__all__ = ["BackgroundWriter", "FlushEvery", "StoreProgress"]

FlushEvery = timedelta | int | None
"""How much a crash may cost: what was appended in so much time, or so many records; None: up to a whole shard."""

_LOOK_AGAIN_SECONDS = 0.2
"""A signal handler that writes may come between looking and waiting, and make true what would be waited for."""
_LOWEST_PRIORITY = 19


@dataclass(frozen=True)
class StoreProgress:
    """How far a writer has come.

    Attributes:
        queued_records, queued_bytes: appended and not committed yet.
        committed_records: on disk, with their ledger lines.
        bytes_written: shards and ledger lines on disk.
        bytes_per_second: since the first record was appended.
    """

    queued_records: int = 0
    queued_bytes: int = 0
    committed_records: int = 0
    bytes_written: int = 0
    bytes_per_second: float = 0.0


class BackgroundWriter:
    """Makes shards of the records that it is handed, in a thread of its own.

    A record is copied to the draft of a shard at once, so that what the caller made is the caller's again: memory that
    another thread gave back while a model runs would be missing where the model looks for it, which costs more than
    copying. The thread packs, compresses and writes the draft that is due, while the other draft takes the records.
    When that is full too the caller waits.

    The thread has the lowest priority where the system knows such a thing for threads: beside a model that computes on
    the CPU it takes the time in which a core has nothing to do, and a thread that competed for a core would hold up
    all of the model's own threads, which wait for each other. When the caller waits the cores are free.

    An error stops the thread until `put`, `flush` or `close` has raised it; then it tries again what failed.

    Args:
        maker: makes the shards.
        shard_bytes: from how many bytes on a shard is written.
        flush_every: bounds what a crash can cost.
    """

    def __init__(self, maker: ShardMaker, shard_bytes: int, flush_every: FlushEvery) -> None:
        self._maker = maker
        self._shard_bytes = shard_bytes
        self._flush_records = flush_every if isinstance(flush_every, int) else None
        self._flush_seconds = flush_every.total_seconds() if isinstance(flush_every, timedelta) else None
        # Taken by itself: an interrupt that comes while a Condition is entered would leave it locked. A signal handler
        # may come back to it in the thread that has it; a half of a record is then in the making, or nothing is.
        self._lock = threading.RLock()
        self._state = threading.Condition(self._lock)
        self._adding = False
        # Records go into the one; the other is empty, or on its way to the disk.
        self._filling, self._due = maker.draft(), maker.draft()
        self._room_wanted = False
        self._committed = self._bytes_written = self._flush_up_to = 0
        self._began = self._oldest = 0.0
        self._error: BaseException | None = None
        self._closing = self._ended = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="actframe-writer", daemon=True)
        self._thread.start()

    @property
    def progress(self) -> StoreProgress:
        """How far it has come at this moment; of a process that was forked from its own, nothing."""
        if self.is_inherited:
            return StoreProgress()
        with self._lock:
            seconds = time.monotonic() - self._began if self._began else 0.0
            return StoreProgress(
                queued_records=self._uncommitted,
                queued_bytes=self._filling.size + self._due.size,
                committed_records=self._committed,
                bytes_written=self._bytes_written,
                bytes_per_second=self._bytes_written / seconds if seconds else 0.0,
            )

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked from the writer's own, where its thread did not follow."""
        return os.getpid() != self._process

    @property
    def is_running(self) -> bool:
        """Whether its thread may still write."""
        return self._thread.is_alive()

    @property
    def is_caller(self) -> bool:
        """Whether it is its own thread that asks, as when that collects garbage."""
        return threading.current_thread() is self._thread

    def put(self, arrival: Arrival) -> None:
        """Take one record; waits while there is no room.

        Raises:
            StorageError: it cannot be taken, or writing an earlier one failed; then this one was not taken.
        """
        self.check_caller()
        self._maker.check(arrival)
        with self._lock:
            # Each time anew: another thread that waits too may have taken the room.
            while self._error is None and not self._closing and not self._has_room(arrival):
                self._room_wanted = True
                self._state.notify_all()
                self._state.wait(_LOOK_AGAIN_SECONDS)
            self._raise_error()
            self._check_open()
            try:
                self._adding = True
                self._filling.add(arrival)
            finally:
                self._adding = False
            self._began = self._began or time.monotonic()
            self._oldest = self._oldest or time.monotonic()
            if self._flush_records and self._uncommitted >= self._flush_records:
                self._flush_up_to = self._committed + self._uncommitted
            self._state.notify_all()

    def flush(self) -> None:
        """Commit every record that was put so far, and wait until that is done.

        Raises:
            StorageError: it failed; what was not committed is kept, and the next flush tries again.
        """
        self.check_caller()
        with self._lock:
            # What failed is tried again; had it been for good, that will be said.
            self._error = None
            wanted = self._flush_up_to = self._committed + self._uncommitted
            self._state.notify_all()
            while self._error is None and not self._ended and self._committed < wanted:
                self._state.wait(_LOOK_AGAIN_SECONDS)
            self._raise_error()
            if self._committed < wanted:
                self._check_open()

    def close(self) -> None:
        """Take nothing more, flush, and end the thread, also where flushing fails.

        Raises:
            StorageError: records could not be committed; the message says how many are lost.
        """
        self.check_caller()
        try:
            with self._lock:
                self._closing = True
                self._state.notify_all()
            self.flush()
        except StorageError as error:
            raise StorageError(
                f"{error}. {self._uncommitted} records were appended and are not in the store"
            ) from error
        finally:
            with self._lock:
                self._ended = True
                self._state.notify_all()
            self._thread.join()
            self._filling.close()
            self._due.close()

    @property
    def _uncommitted(self) -> int:
        return len(self._due) + len(self._filling)

    def check_caller(self) -> None:
        """Refuse those for whom nobody would ever write.

        Raises:
            StorageError: it is a forked process, into which threads do not follow; or the writer's thread, which would
                wait for itself; or a signal handler in the middle of taking a record.
        """
        if self.is_inherited:
            raise StorageError("this process was forked from the one that opened the store; open the store again in it")
        if self.is_caller:
            raise StorageError("what writes the shards of a store cannot write to the same store")
        with self._lock:
            if self._adding:
                raise StorageError(
                    "a signal handler interrupted the taking of a record and cannot write to the same store; have the "
                    "handler note the signal, and write when append() has returned"
                )

    def _check_open(self) -> None:
        if self._closing:
            raise StorageError("the store was closed; open it again to append")

    def _has_room(self, arrival: Arrival) -> bool:
        return not len(self._filling) or (self._filling.size < self._shard_bytes and self._filling.accepts(arrival))

    def _raise_error(self) -> None:
        """Raise what went wrong in the thread, once, and let the thread go on."""
        error, self._error = self._error, None
        if error is None:
            return
        self._state.notify_all()
        if isinstance(error, StorageError):
            raise error
        raise StorageError(f"the store's writer failed: {type(error).__name__}: {error}") from error

    # Below: the thread.

    def _run(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while (draft := self._next_draft()) is not None:
            try:
                self._commit(draft)
            except BaseException as error:
                with self._lock:
                    self._error = error
                    self._state.notify_all()

    def _next_draft(self) -> ShardDraft | None:
        """Wait for a draft that is due; None when it is time to end."""
        with self._lock:
            while not self._ended:
                if self._error is None:
                    if not len(self._due) and self._is_due():
                        self._filling, self._due = self._due, self._filling
                        self._oldest, self._room_wanted = 0.0, False
                        self._state.notify_all()
                    if len(self._due):
                        return self._due
                self._state.wait(self._seconds_left() if self._error is None else None)
            return None

    def _is_due(self) -> bool:
        """Whether the draft that takes the records is to be written now."""
        if not len(self._filling):
            return False
        full = self._filling.size >= self._shard_bytes
        return full or self._room_wanted or self._committed < self._flush_up_to or self._seconds_left() == 0

    def _seconds_left(self) -> float | None:
        if self._flush_seconds is None or not self._oldest:
            return None
        return max(0.0, self._oldest + self._flush_seconds - time.monotonic())

    def _commit(self, draft: ShardDraft) -> None:
        size = self._maker.commit(draft)
        with self._lock:
            self._committed += len(draft)
            self._bytes_written += size
            draft.clear()
            self._state.notify_all()
