"""BenchmarkRun: an adapter's questions -> generation inside the recorder -> a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.runs.attempts import Attempts, check_engine
from actframe.runs.benchmark_work import BenchmarkWork, missing_answers
from actframe.runs.engines import ExecutionEngine, LocalEngine, Task
from actframe.runs.layouts import layout_for
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Batch, Key, RunPlan
from actframe.runs.progress import RunProgress
from actframe.runs.recording import RecordedBatch
from actframe.runs.results import RunResult
from actframe.runs.room import DiskRoom
from actframe.runs.sampling import first_pass
from actframe.runs.settings import RunSettings
from actframe.runs.sittings import Sitting

__all__ = ["BenchmarkRun", "RunProgress", "RunSettings"]


class BenchmarkRun:
    """One benchmark, one model, one folder.

        run = BenchmarkRun(load_model("smollm2"), General(), "results", RunSettings(limit=10))
        print(run.execute().summary)

    The folder becomes an `ActivationStore` with a record for each answer, and gets `results.json` at the end. The same
    run in the same folder again goes on where it ended: answers that are there are kept, and the others become what
    they would have been. With `layout="files"` it gets `answers.jsonl` and one activation file for each answer instead.

    Everything that can be wrong is found here, before the model runs. Questions that do not fit the model's context are
    left out, with a warning: `plan.too_long` and the results have their ids.

    Args:
        model: who answers.
        benchmark: who asks.
        folder: where everything goes; for a store also a URL such as `s3://bucket/run`.
        settings: how it is done.
        overwrite: replace the run that is in the folder. It is removed when this one begins; other files stay.
        engine: where it executes. Default: here.

    Attributes:
        folder: as it was given; `location` is its whole path.
        result: what came of the latest `execute`, also where it raised; None before.

    Raises:
        BenchmarkError: the adapter has no questions, repeats an id, or fails to make a prompt.
        PromptError: a question is empty, or all are too long for the model; the message has its id.
        ModelError: the model has no tokenizer or does not generate.
        SiteError, SelectionError, LayoutError: the selection does not fit the model.
        StorageError: the folder cannot be made or written, holds something else, or another process runs this in it.
        SettingsError: the folder holds another run; the message has every difference.
    """

    def __init__(
        self,
        model: LoadedModel,
        benchmark: BenchmarkAdapter,
        folder: str | os.PathLike[str],
        settings: RunSettings | None = None,
        *,
        overwrite: bool = False,
        engine: ExecutionEngine | None = None,
    ) -> None:
        self.engine = engine or LocalEngine()
        self.model = model
        self.benchmark = benchmark
        self.settings = settings or RunSettings()
        check_engine(self.engine, self.settings)
        self.plan = RunPlan(model, benchmark, self.settings)
        if self.settings.capture:
            self.settings.capture.recorder(model, into=RecordedBatch())
        self.layout = layout_for(folder, model, benchmark, self.plan, self.settings, overwrite=overwrite)
        self.folder = os.fspath(folder)
        self.overwrites = overwrite
        self.result: RunResult | None = None
        self.layout.check()
        if self.remaining():
            self.layout.check_can_write()
        if left_out := self.plan.too_long:
            warnings.warn(
                f"{len(left_out)} of {len(left_out) + len(self.plan.questions)} questions are left out: with "
                f"{self.settings.expected} they do not fit the context of {model.name!r}, "
                f"which is {model.context_length} tokens ({', '.join(left_out[:3])}{', ...' * (len(left_out) > 3)})",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def location(self) -> str:
        """The folder's path, or its URL."""
        return self.layout.location

    def remaining(self) -> list[Batch]:
        """The batches that are still to be computed: those of which a record is missing."""
        return list(self.plan.remaining(self.layout.done()))

    def execute(self, progress: Callable[[RunProgress], None] | None = None) -> RunResult:
        """Answer every question that has no answer yet, and write the results.

        Whatever ends it early, Ctrl-C included, leaves every answer that was finished, its activations, and a
        `results.json` that says `"partial": true` and why; then the exception goes on. Where `max_disk_bytes` ends it,
        the result says so.

        Args:
            progress: called before the first batch, after each answer, and when all of them are on disk.

        Raises:
            StorageError: the disk has no room for it, or what is written cannot be.
        """
        sitting = Sitting(self.model, self.benchmark.name, self.settings)
        attempts = Attempts(missing_answers)
        remaining = self.remaining()
        if not remaining:
            return self._finish(sitting, None)
        self.layout.check_can_write()
        room = self._room(remaining)
        tell = progress or (lambda now: None)
        began = False
        try:
            while not began or attempts.again:
                with self.layout:
                    began = True
                    # Closed here, not when it is collected: the recorder must be gone before anybody hears of an error.
                    with closing(self._answers(sitting, room, attempts)) as arriving:
                        for now in arriving:
                            tell(now)
            tell(replace(now, written=self.layout.written()))
        except BaseException as error:
            if not began:
                raise
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            try:
                self._finish(sitting, reason)
            except Exception as failure:
                error.add_note(f"the partial results could not be written either: {failure}")
            raise
        return self._finish(sitting, room.refused or attempts.reason, attempts.failures)

    def _answers(self, sitting: Sitting, room: DiskRoom, attempts: Attempts) -> Generator[RunProgress]:
        """How far the run has come, after each answer that was given to the layout."""
        done = self.layout.done()
        there = [done[job.key] for job in self.plan.jobs if job.key in done]
        ungraded = sum(job.key in done and not job.question.answer for job in self.plan.jobs)
        earlier = sitting.begin(len(there))
        now = RunProgress(len(there), len(self.plan.jobs), sum(there), earlier=earlier, ungraded=ungraded)
        yield replace(now, written=self.layout.written())
        tasks = attempts.begin(self._tasks(done, room))
        work = BenchmarkWork(self.model, self.benchmark, self.settings, self.layout)
        with closing(self.engine.run(work, tasks)) as outcomes:
            for outcome in outcomes:
                sitting.take(outcome)
                attempts.take(outcome)
                if outcome.records:
                    now = replace(
                        now,
                        done=now.done + outcome.records,
                        correct=now.correct + outcome.correct,
                        ungraded=now.ungraded + outcome.ungraded,
                        tokens=sitting.tokens,
                        seconds=sitting.generating,
                        written=self.layout.written() + attempts.written,
                    )
                    yield now

    def _tasks(self, done: Container[Key], room: DiskRoom) -> Iterator[Task]:
        """The batches of which answers are missing, as long as there is room for them."""
        for number, batch in enumerate(self.plan.batches):
            if not all(job.is_done(done) for job in batch):
                if not room.fits(batch, done):
                    return
                yield Task(number, batch, frozenset(key for job in batch for key in job.keys if key in done))

    def _room(self, remaining: Sequence[Batch]) -> DiskRoom:
        """The room on the disk, looked at with one forward pass over one prompt."""
        sample = first_pass(self.model, self.settings, self.plan.jobs[0])
        room = DiskRoom(self.layout, self.settings, sample.sizes, sample.ratio)
        room.check([job for batch in remaining for job in batch])
        return room

    def _finish(self, sitting: Sitting, reason: str | None, failures: Mapping[str, str] | None = None) -> RunResult:
        """Write the results of all answers that are on disk, of this sitting and of those before it."""
        found = self.layout.answers(self.plan)
        total = len(self.plan.jobs)
        if reason is None and len(found.answers) < total:
            reason = "answers that were written are not there any more"
        circumstances = sitting.circumstances(self.layout.earlier_results(), self.layout.written())
        tokens = sum(answer["output_tokens"] or 0 for answer in found.graded)
        result = RunResult(
            {
                **circumstances,
                "answers": {"done": len(found.answers), "total": total},
                "too_long": self.plan.too_long,
                "output_tokens": tokens,
            },
            found.answers,
            found.graded,
            partial=reason is not None,
            reason=reason,
            new=sitting.answers,
            failures=failures or {},
        )
        self.result = result
        self.layout.write_results(result)
        return result
