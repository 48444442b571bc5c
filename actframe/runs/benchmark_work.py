"""What workers of a benchmark run do: answer batches of questions, and give each answer's record to the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.capture.recorder import Sink
from actframe.runs.answering import Answered, answer_batch, graded_records
from actframe.runs.batches import batch_tokens
from actframe.runs.elsewhere import StorePlace, TravellingModel, written_by
from actframe.runs.engines import Failure, Outcome, Task, Work, Worker, Written
from actframe.runs.isolation import Isolation, Part
from actframe.runs.layout import RunLayout
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Job
from actframe.runs.recording import RecordedBatch, recorded_batches
from actframe.runs.settings import RunSettings
from actframe.storage.store import ActivationStore

__all__ = ["BenchmarkWork", "missing_answers"]


class BenchmarkWork(Work):
    """Answering questions; the items of tasks are jobs.

    Args:
        model: who answers.
        benchmark: who judges.
        settings: how it is done.
        layout: of the run; pickle the work while it is entered.
    """

    def __init__(
        self, model: LoadedModel, benchmark: BenchmarkAdapter, settings: RunSettings, layout: RunLayout
    ) -> None:
        self._model: LoadedModel | TravellingModel = model
        self._benchmark = benchmark
        self._settings = settings
        self._place: RunLayout | StorePlace = layout

    def __getstate__(self) -> dict[str, Any]:
        model, place = self._model, self._place
        return {
            **self.__dict__,
            "_model": TravellingModel.of(model) if isinstance(model, LoadedModel) else model,
            "_place": place.place() if isinstance(place, RunLayout) else place,
        }

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        model = self._model if isinstance(self._model, LoadedModel) else self._model.load()
        place = self._place
        with ExitStack() as opened:
            store = place if isinstance(place, RunLayout) else opened.enter_context(place.open())
            yield BenchmarkWorker(model, self._benchmark, self._settings, store, opened)


class BenchmarkWorker(Worker):
    """Answers batches.

    Args:
        model, benchmark, settings: as of `BenchmarkWork`.
        store: gets the records.
        opened: what is closed with the worker; the recorder will be part of it.
    """

    def __init__(
        self,
        model: LoadedModel,
        benchmark: BenchmarkAdapter,
        settings: RunSettings,
        store: Sink,
        opened: ExitStack,
    ) -> None:
        self._model = model
        self._benchmark = benchmark
        self._settings = settings
        self._store = store
        self._opened = opened
        self._sink: RecordedBatch | None = None
        self._begun = False
        self._isolation = Isolation[Job](
            lambda jobs: batch_tokens([len(job.input_ids) for job in jobs], settings.generation)
        )

    def compute(self, task: Task) -> Iterator[Outcome]:
        """As the contract says, with an outcome for each answer."""
        if not self._begun:
            # Not before: there may be no task for this worker, and a recorder that records nothing complains.
            capture, scoring = self._settings.capture, self._settings.scoring
            self._sink = self._opened.enter_context(recorded_batches(capture, self._model, scoring))
            self._begun = True
        for part in self._isolation.run(task.items, self._answer):
            yield from self._outcomes(task, part)

    def written(self) -> Written:
        """As the contract says."""
        return written_by(self._store) if isinstance(self._store, ActivationStore) else Written()

    def _answer(self, jobs: Sequence[Job]) -> list[Answered]:
        if self._sink is not None:
            # What a batch left that failed.
            self._sink.clear()
        return answer_batch(self._model, jobs, self._settings.generation, self._sink)

    def _outcomes(self, task: Task, part: Part[Job, list[Answered]]) -> Iterator[Outcome]:
        refused = self._isolation.refused
        missing = [place for place, job in enumerate(part.items) if not job.is_done(task.done)]
        if part.result is None:
            failures = tuple(Failure(_name(part.items[place]), str(part.reason)) for place in missing)
            yield Outcome(task.number, seconds=part.seconds, failures=failures, halved_from_tokens=refused)
            return
        tokens = sum(len(each.response.output_ids) for each in part.result)
        yield Outcome(task.number, tokens=tokens, seconds=part.seconds, halved_from_tokens=refused)
        for place in missing:
            job = part.items[place]
            graded = graded_records(self._model, self._benchmark, job, part.result[place])
            for key, record in zip(job.keys, graded, strict=True):
                if key not in task.done:
                    self._store.append(record)
            if job.key not in task.done:
                correct = graded[-1]["correct"]
                yield Outcome(task.number, 1, bool(correct), correct is None, halved_from_tokens=refused)


def missing_answers(task: Task) -> list[str]:
    """What messages call the answers of a task that are missing."""
    return [_name(job) for job in task.items if not job.is_done(task.done)]


def _name(job: Job) -> str:
    return f"question {job.question.id!r}" + (f", trial {job.trial}" if job.trial else "")
