"""StoreLayout: a record for each answer of a run in one `ActivationStore`, which the same run goes on with."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from actframe.errors import SettingsError, StorageError
from actframe.records.record import ActivationRecord
from actframe.runs.differences import compare_runs
from actframe.runs.elsewhere import StorePlace, written_by
from actframe.runs.layout import AnswersSoFar, RunLayout, Written
from actframe.runs.ledger_answers import LedgerAnswers, find_answers, find_records, graded_answers
from actframe.runs.plan import Key, RunPlan
from actframe.runs.recording import check_folder
from actframe.runs.results import RESULTS, RunResult
from actframe.runs.settings import RunSettings
from actframe.storage.folders import LocalFolder, store_folder
from actframe.storage.identity import begin_anew, check_new, is_store, read_identity
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING
from actframe.storage.store import ActivationStore

__all__ = ["StoreLayout"]

WAYS_OUT = (
    "give another folder (--activation-save-dir), the settings of the run that is there, or overwrite=True "
    "(--overwrite) to replace it"
)


class StoreLayout(RunLayout):
    """One store. The ledger says which answers there are; `run.json` says of what run they are.

    Args:
        location: a folder or a URL.
        settings: how the run is stored.
        run: what defines it.
        overwrite: remove another run that is there when this one is entered.
    """

    def __init__(
        self, location: str | os.PathLike[str], settings: RunSettings, run: Mapping[str, Any], overwrite: bool
    ) -> None:
        self._folder = store_folder(os.fspath(location))
        self.location = self._folder.location
        self._settings = settings
        self._backend = settings.capture.storage if settings.capture else "safetensors"
        self._run = run
        self._overwrites = overwrite
        self._store: ActivationStore | None = None
        self._before = 0
        self._ledger = Ledger(self._folder)

    def check(self) -> None:
        if not is_store(self._folder):
            check_new(self._folder)
            return
        identity = read_identity(self._folder)
        if identity.origin is not None:
            raise StorageError(f"{self.location} holds a store that was made from others; give another folder")
        if identity.run is None:
            raise StorageError(
                f"{self.location} holds a store that is not of a benchmark run, or lost its run.json, which "
                f"`actframe repair` brings back; give another folder"
            )
        if not self._overwrites:
            self._compare(identity.run)

    def check_can_write(self) -> None:
        if isinstance(self._folder, LocalFolder):
            check_folder(self._folder.path)
        if not self._folder.is_writable():
            raise StorageError(f"cannot write to the folder {self.location}")
        if held := self._held():
            raise self._busy(held[0])

    def done(self) -> Mapping[Key, bool]:
        if self._is_empty:
            return {}
        self._ledger.refresh()
        found = find_records(self._ledger)
        correct = self._ledger.column("correct") if found else ()
        return {key: correct[number] is not MISSING and bool(correct[number]) for key, number in found.items()}

    def column(self, key: str) -> Sequence[Any]:
        """What each record that is here already and stays says under one key, or `MISSING`."""
        if self._is_empty:
            return ()
        self._ledger.refresh()
        return self._ledger.column(key)

    def append(self, record: ActivationRecord) -> None:
        assert self._store is not None
        self._store.append(record)

    def place(self) -> StorePlace:
        assert self._store is not None
        settings = self._settings
        return StorePlace(self.location, self._backend, settings.shard_bytes, settings.flush_every, self._store.run)

    def flush(self) -> None:
        if self._store is not None:
            self._store.flush()

    def written(self) -> Written:
        if self._store is None:
            return Written(self._stored_bytes())
        return Written(self._before) + written_by(self._store)

    def answers(self, plan: RunPlan) -> AnswersSoFar:
        if self._is_empty:
            return AnswersSoFar([], [])
        self._ledger.refresh()
        found = find_answers(self._ledger)
        numbers = [found[job.key] for job in plan.jobs if job.key in found]
        return AnswersSoFar(LedgerAnswers(self._ledger, numbers), graded_answers(self._ledger, numbers))

    def earlier_results(self) -> Mapping[str, Any]:
        if self._is_empty or RESULTS not in self._folder.sizes(""):
            return {}
        try:
            earlier = json.loads(self._folder.read(RESULTS))
        except ValueError:
            # The answers are in the ledger; of these results nothing but the times of earlier sittings is wanted.
            return {}
        return earlier if isinstance(earlier, dict) else {}

    def write_results(self, result: RunResult) -> None:
        content = result.encoded()
        there = RESULTS in self._folder.sizes("") and self._folder.read(RESULTS) == content
        # What is complete may lie where nothing can be written any more.
        if not there:
            self._folder.write(RESULTS, content)

    def free_bytes(self) -> int | None:
        free = self._folder.free_bytes()
        if free is None:
            return None
        replaced = self._overwrites and is_store(self._folder)
        return free + (sum(self._folder.sizes("shards").values()) if replaced else 0)

    def __enter__(self) -> Self:
        if self._overwrites and is_store(self._folder):
            begin_anew(self._folder, self._backend, self._run)
        self._overwrites = False
        settings = self._settings
        with ExitStack() as undo:
            store = undo.enter_context(
                ActivationStore(
                    self.location,
                    self._backend,
                    shard_bytes=settings.shard_bytes,
                    flush_every=settings.flush_every,
                    run=self._run,
                )
            )
            # Another may have begun this store since it was looked at.
            self._compare(store.run or {}, warns=True)
            self._before = store.bytes_on_disk
            store.begin()
            # One of them is this one. Of two that began at the same moment each sees the other.
            if len(held := self._held()) > 1:
                raise self._busy(" or ".join(held))
            undo.pop_all()
        self._store, self._ledger = store, store.ledger
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._store is not None
        store, self._store = self._store, None
        store.__exit__(kind, error, trace)

    @property
    def _is_empty(self) -> bool:
        """Whether there are no answers that stay."""
        return self._overwrites or not is_store(self._folder)

    def _stored_bytes(self) -> int:
        return 0 if self._is_empty else sum(sum(self._folder.sizes(below).values()) for below in ("shards", "ledger"))

    def _held(self) -> list[str]:
        """The ledgers that a process of this machine has open."""
        names = (f"ledger/{name}" for name in self._folder.sizes("ledger"))
        return [name for name in names if self._folder.has_writer(name)]

    def _busy(self, ledger: str) -> StorageError:
        return StorageError(
            f"another process is writing to {self.location}: it has {ledger} open. Two would give the same answers; "
            f"wait until it has ended, or give another folder"
        )

    def _compare(self, stored: Mapping[str, Any], warns: bool = False) -> None:
        """Refuse a run that is not this one; warn where it is, and was computed in another way."""
        found = compare_runs(stored, self._run)
        if other := [str(each) for each in found if not each.is_circumstance]:
            raise SettingsError(
                f"{self.location} holds another run (there -> asked for): {'; '.join(other)}. To go on, {WAYS_OUT}"
            )
        if found and warns:
            warnings.warn(
                f"this run was begun under other circumstances, and its answers may differ in their last bits (then "
                f"-> now): {'; '.join(map(str, found))}. Each record says which were its own",
                RuntimeWarning,
                stacklevel=3,
            )
