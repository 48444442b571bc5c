"""FilesLayout: a line in `answers.jsonl` and an activation file of its own for each answer of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actframe.errors import StorageError
from actframe.records.record import ActivationRecord
from actframe.runs.layout import AnswersSoFar, RunLayout, Written
from actframe.runs.plan import Key, RunPlan
from actframe.runs.recording import CaptureSettings, check_folder, prepare_folder, save_record
from actframe.runs.results import ANSWER_KEYS, AnswerLog, RunResult, set_aside_earlier, write_results
from actframe.storage.folders import store_folder
from actframe.storage.identity import is_store

__all__ = ["FilesLayout"]


class FilesLayout(RunLayout):
    """Files that are easy to look at, one answer each. What an earlier run left here is renamed and kept."""

    def __init__(self, folder: str | os.PathLike[str], capture: CaptureSettings | None) -> None:
        self._folder = Path(folder)
        self.location = os.fspath(folder)
        self._capture = capture
        self._answers: list[dict[str, Any]] = []
        self._bytes = 0
        self._log: AnswerLog | None = None

    def check(self) -> None:
        if "://" in self.location:
            raise StorageError(f"{self.location} can hold a store only; use the layout 'store', or a local folder")
        if self._folder.is_dir() and is_store(store_folder(self.location)):
            raise StorageError(f"{self.location} holds a store; give another folder, or use the layout 'store'")

    def check_can_write(self) -> None:
        check_folder(self._folder)

    def done(self) -> Mapping[Key, bool]:
        return {}

    def append(self, record: ActivationRecord) -> None:
        assert self._log is not None
        answer = {key: record[key] for key in ANSWER_KEYS if key in record}
        path = save_record(record, self._folder, self._capture.suffix) if self._capture else None
        answer["activations"] = path.name if path else None
        self._log.append(answer)
        self._bytes += path.stat().st_size if path else 0
        self._answers.append(answer)

    def flush(self) -> None:
        if self._log is not None:
            self._log.sync()

    def written(self) -> Written:
        return Written(self._bytes + (self._log.size if self._log else 0))

    def answers(self, plan: RunPlan) -> AnswersSoFar:
        places = {job.key: place for place, job in enumerate(plan.jobs)}
        ordered = sorted(self._answers, key=lambda answer: places[answer["question_id"], answer["trial"]])
        return AnswersSoFar(ordered, ordered)

    def earlier_results(self) -> Mapping[str, Any]:
        return {}

    def write_results(self, result: RunResult) -> None:
        write_results(result, self._folder)

    def free_bytes(self) -> int | None:
        folder = self._folder.absolute()
        return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free

    def __enter__(self) -> Self:
        prepare_folder(self._folder)
        set_aside_earlier(self._folder)
        self._answers, self._bytes = [], 0
        self._log = AnswerLog(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.close()
