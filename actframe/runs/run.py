"""BenchmarkRun: an adapter's questions -> generation inside the recorder -> files."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.errors import PromptError, SettingsError
from actframe.records.record import ActivationRecord
from actframe.runs.generation import GenerationSettings, Response, generate_batch, plan_batches, prepare_prompts
from actframe.runs.grading import grade, make_prompt, take_questions
from actframe.runs.models import LoadedModel
from actframe.runs.recording import CaptureSettings, RecordedBatch, prepare_folder, save_record
from actframe.runs.results import AnswerLog, RunResult, set_aside_earlier, write_results

__all__ = ["BenchmarkRun", "RunProgress", "RunSettings"]

SAID = (
    "prompt",
    "response",
    "question_id",
    "trial",
    "subject",
    "expected",
    "extracted_answer",
    "correct",
    "unparsed",
    "truncated",
)
"""What a record repeats of its answer, so that an activation file can be understood alone."""


@dataclass(frozen=True)
class RunSettings:
    """How a benchmark is run.

    Attributes:
        num_trials: how often each question is answered; more than once needs a temperature above 0.
        limit: answer only so many questions, the first ones.
        generation: how answers are generated.
        capture: what is recorded of each answer; None for a plain benchmark run.
    """

    num_trials: int = 1
    limit: int | None = None
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    capture: CaptureSettings | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.num_trials, int) or self.num_trials < 1:
            raise SettingsError(f"num_trials is {self.num_trials!r}; it must be a whole number, at least 1")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise SettingsError(f"limit is {self.limit!r}; it must be a whole number, at least 1, or None for all")
        if self.num_trials > 1 and self.generation.temperature == 0:
            raise SettingsError(
                f"{self.num_trials} trials at temperature 0 would give each answer {self.num_trials} times; "
                f"set a temperature above 0, or num_trials to 1"
            )


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come.

    Attributes:
        done: answers so far.
        total: answers there will be: questions times trials.
        correct: right answers so far.
        tokens: tokens generated so far.
        seconds: time spent generating them.
        bytes_written: size of the activation files so far.
    """

    done: int
    total: int
    correct: int
    tokens: int
    seconds: float
    bytes_written: int

    @property
    def accuracy(self) -> float:
        """The share of right answers so far."""
        return self.correct / self.done if self.done else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, over all rows of a batch."""
        return self.tokens / self.seconds if self.seconds else 0.0


class BenchmarkRun:
    """One benchmark, one model, one folder.

        run = BenchmarkRun(load_model("smollm2"), General(), "results", RunSettings(limit=10))
        print(run.execute().summary)

    The folder gets `answers.jsonl` (a line for each answer as it comes), `results.json` at the end, and with
    `settings.capture` one activation file for each answer, named in its line. What an earlier run left there is
    renamed, not overwritten. The n-th batch of the run draws with `settings.generation.seed + n`.

    Everything that can be wrong is found here, before the model runs.

    Raises:
        BenchmarkError: the adapter has no questions, repeats an id, or fails to make a prompt.
        PromptError: a question is empty or too long for the model; the message has its id.
        ModelError: the model has no tokenizer or does not generate.
        SiteError, SelectionError, LayoutError: the selection does not fit the model.
        StorageError: the folder cannot be made or written.
    """

    def __init__(
        self,
        model: LoadedModel,
        benchmark: BenchmarkAdapter,
        folder: str | Path,
        settings: RunSettings | None = None,
    ) -> None:
        self.model = model
        self.benchmark = benchmark
        self.folder = Path(folder)
        self.settings = settings or RunSettings()
        self.questions = take_questions(benchmark, self.settings.limit)
        self._prompts = [make_prompt(benchmark, question) for question in self.questions]
        self._encoded = self._encode()
        if self.settings.capture:
            self.settings.capture.recorder(model, into=RecordedBatch())
        prepare_folder(self.folder)

    def execute(self, progress: Callable[[RunProgress], None] | None = None) -> RunResult:
        """Answer every question and write the results.

        Whatever ends the run early, Ctrl-C included, leaves every answer that was finished, its activations, and a
        `results.json` that says `"partial": true` and why; then the exception goes on.

        Args:
            progress: called before the first batch and after each answer.
        """
        set_aside_earlier(self.folder)
        started, clock = datetime.now(UTC), time.monotonic()
        answers: list[dict[str, Any]] = []
        now = RunProgress(0, len(self.questions) * self.settings.num_trials, 0, 0, 0.0, 0)

        def result(reason: str | None) -> RunResult:
            seconds = time.monotonic() - clock
            circumstances = {"started": started.isoformat(), "seconds": seconds, **self._circumstances(now)}
            return RunResult(circumstances, answers, partial=reason is not None, reason=reason)

        log = AnswerLog(self.folder)
        try:
            if progress:
                progress(now)
            # Closed here, not when it is collected: the recorder must be gone before anybody else hears of an error.
            with closing(self._answers(now, log)) as arriving:
                for answer, reached in arriving:
                    answers.append(answer)
                    now = reached
                    if progress:
                        progress(now)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            try:
                write_results(result(reason), self.folder)
            except Exception as failure:
                error.add_note(f"the partial results could not be written either: {failure}")
            raise
        finally:
            log.close()
        finished = result(None)
        write_results(finished, self.folder)
        return finished

    def _answers(self, now: RunProgress, log: AnswerLog) -> Generator[tuple[dict[str, Any], RunProgress]]:
        """Each answer as soon as it is in its files, with how far the run has come."""
        generation = self.settings.generation
        # Trials one after another, so that a run that ends early has whole ones.
        jobs = [(index, trial) for trial in range(self.settings.num_trials) for index in range(len(self.questions))]
        batches = plan_batches([len(self._encoded[index]) for index, _ in jobs], generation.batch_size)
        sink, capture = RecordedBatch(), self.settings.capture
        with capture.recorder(self.model, into=sink) if capture else nullcontext():
            for number, rows in enumerate(batches):
                batch = [jobs[row] for row in rows]
                encoded = [self._encoded[index] for index, _ in batch]
                began = time.monotonic()
                responses = generate_batch(self.model, encoded, generation, generation.seed + number)
                tokens = sum(len(response.output_ids) for response in responses)
                now = replace(now, tokens=now.tokens + tokens, seconds=now.seconds + time.monotonic() - began)
                records = sink.take(encoded) if capture else [None] * len(batch)
                for (index, trial), response, record in zip(batch, responses, records, strict=True):
                    answer = self._answer(index, trial, response)
                    written = self._save(answer, record) if record is not None else 0
                    log.append(answer)
                    now = replace(
                        now,
                        done=now.done + 1,
                        correct=now.correct + answer["correct"],
                        bytes_written=now.bytes_written + written,
                    )
                    yield answer, now
                log.sync()

    def _answer(self, index: int, trial: int, response: Response) -> dict[str, Any]:
        question = self.questions[index]
        return {
            **grade(self.benchmark, question, response),
            "trial": trial,
            "prompt": self._prompts[index],
            "response": response.text,
            "prompt_tokens": response.prompt_tokens,
            "output_tokens": len(response.output_ids),
            "chance": 1 / len(question.choices) if question.choices else None,
            "activations": None,
        }

    def _save(self, answer: dict[str, Any], record: ActivationRecord) -> int:
        """Save the record with what was said about it; returns the size of the file."""
        assert self.settings.capture is not None
        said = {key: answer[key] for key in SAID}
        path = save_record(record.replace(**said, model=self.model.name), self.folder, self.settings.capture.suffix)
        answer["activations"] = path.name
        return path.stat().st_size

    def _encode(self) -> list[list[int]]:
        try:
            return prepare_prompts(self.model, self._prompts, self.settings.generation)
        except PromptError:
            # Once more one by one, to say which question it is.
            for question, prompt in zip(self.questions, self._prompts, strict=True):
                try:
                    prepare_prompts(self.model, [prompt], self.settings.generation)
                except PromptError as error:
                    raise PromptError(f"question {question.id!r} of {self.benchmark.name!r}: {error}") from error
            raise

    def _circumstances(self, now: RunProgress) -> dict[str, Any]:
        settings = self.settings
        return {
            "model": self.model.name,
            "benchmark": self.benchmark.name,
            "settings": {
                "num_trials": settings.num_trials,
                "limit": settings.limit,
                **asdict(settings.generation),
                "capture": settings.capture.as_json() if settings.capture else None,
            },
            "device": str(self.model.device),
            "dtype": str(self.model.model.dtype).removeprefix("torch."),
            "answers": {"done": now.done, "total": now.total},
            "output_tokens": now.tokens,
            "tokens_per_second": now.tokens_per_second,
            "activation_bytes": now.bytes_written,
            "actframe_version": metadata.version("actframe"),
            "torch_version": str(torch.__version__),
            "transformers_version": transformers.__version__,
        }
