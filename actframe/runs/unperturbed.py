"""A receipt that recording changes nothing: the same questions with and without it, compared bit for bit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.runs.answering import answer_batch
from actframe.runs.generation import run_generate
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Batch, RunPlan
from actframe.runs.recording import CaptureSettings, RecordedBatch, recorded_batches
from actframe.runs.settings import RunSettings

__all__ = ["UnperturbedReceipt", "check_unperturbed"]

REPETITIONS = 3


@dataclass(frozen=True)
class UnperturbedReceipt:
    """What came of answering some questions with and without recording.

    Attributes:
        questions: how many, each in the batch that a run would compute it in.
        tokens: of their responses, or of the choices that were ranked, in each pass.
        sites: how many were recorded.
        different: what was compared, and the ids of the questions of which it differs: `texts` and `logits` of what is
            generated, `loglikelihoods` of choices that are ranked.
        seconds_plain, seconds_recorded: medians of interleaved repetitions.
    """

    questions: int
    tokens: int
    sites: int
    different: Mapping[str, list[str]]
    seconds_plain: float
    seconds_recorded: float

    @property
    def is_unperturbed(self) -> bool:
        """Whether everything is the same."""
        return not any(self.different.values())

    @property
    def overhead(self) -> float:
        """How much longer it takes with recording: 0.03 is 3%."""
        return self.seconds_recorded / self.seconds_plain - 1

    def as_json(self) -> dict[str, Any]:
        """The receipt in JSON-safe form."""
        return {
            "questions": self.questions,
            "tokens": self.tokens,
            "sites": self.sites,
            **{f"different_{name}": ids for name, ids in self.different.items()},
            "seconds_plain": self.seconds_plain,
            "seconds_recorded": self.seconds_recorded,
            "is_unperturbed": self.is_unperturbed,
            "overhead": self.overhead,
        }


Computed = dict[str, list[Tensor]]
"""What is compared of one question, under the names of a receipt."""

Way = Callable[[LoadedModel, Batch, RunSettings, CaptureSettings | None], Iterator[tuple[Computed, int]]]
"""Answers a batch: what is compared of each question, and how many tokens it has come to."""


def check_unperturbed(
    model: LoadedModel,
    benchmark: BenchmarkAdapter,
    settings: RunSettings,
    count: int,
    repetitions: int = REPETITIONS,
) -> UnperturbedReceipt:
    """Answer some questions with and without recording, in the same batches, and compare what the model computes.

    Args:
        model: who answers.
        benchmark: who asks.
        settings: of the run; without `capture`, embeddings and all layers are recorded. Its scoring says what is
            compared: responses and their logits, or the log-likelihoods of choices.
        count: how many questions, the first ones.
        repetitions: how often each way is timed.

    Raises:
        BenchmarkError, PromptError, ModelError, SiteError: as `BenchmarkRun`.
    """
    limit = count if settings.limit is None else min(count, settings.limit)
    plan = RunPlan(model, benchmark, replace(settings, limit=limit, num_trials=1))
    capture = settings.capture or CaptureSettings()
    way: Way = _generated if settings.scoring == "generate" else _ranked
    different: dict[str, list[str]] = {}
    tokens = 0
    for batch in plan.batches:
        both = zip(batch, way(model, batch, settings, None), way(model, batch, settings, capture), strict=True)
        for job, (plain, length), (recorded, _) in both:
            tokens += length
            for name in plain:
                differing = different.setdefault(name, [])
                if not _same_bits(plain[name], recorded[name]):
                    differing.append(job.question.id)
    times: dict[bool, list[float]] = {False: [], True: []}
    for repetition in range(repetitions):
        # Each way first in turn, so that neither always finds the machine as the other left it.
        for records in (False, True) if repetition % 2 else (True, False):
            times[records].append(_seconds(model, plan.batches, settings, capture if records else None))
    return UnperturbedReceipt(
        questions=len(plan.questions),
        tokens=tokens,
        sites=len(capture.recorder(model, RecordedBatch()).sites),
        different=different,
        seconds_plain=statistics.median(times[False]),
        seconds_recorded=statistics.median(times[True]),
    )


def _generated(
    model: LoadedModel, batch: Batch, settings: RunSettings, capture: CaptureSettings | None
) -> Iterator[tuple[Computed, int]]:
    logits: list[list[Tensor]] = [[] for _ in batch]

    def observe(rows: list[int], scores: Tensor) -> None:
        for row, each in zip(rows, scores.cpu(), strict=True):
            logits[row].append(each.clone())

    with capture.recorder(model, RecordedBatch()) if capture else nullcontext():
        sequences = run_generate(model, [job.request for job in batch], settings.generation, observe)[0]
    for row in range(len(batch)):
        yield {"texts": [sequences[row]], "logits": logits[row]}, len(logits[row])


def _ranked(
    model: LoadedModel, batch: Batch, settings: RunSettings, capture: CaptureSettings | None
) -> Iterator[tuple[Computed, int]]:
    with recorded_batches(capture, model, settings.scoring) as sink:
        answered = answer_batch(model, batch, settings.generation, sink)
    for response, *_ in answered:
        values = [each.loglikelihood for each in response.likelihoods or ()]
        compared = torch.tensor(values, dtype=torch.float64)
        yield {"loglikelihoods": [compared]}, sum(each.tokens for each in response.likelihoods or ())


def _seconds(
    model: LoadedModel, batches: Sequence[Batch], settings: RunSettings, capture: CaptureSettings | None
) -> float:
    began = time.perf_counter()
    with recorded_batches(capture, model, settings.scoring) as sink:
        for batch in batches:
            answer_batch(model, batch, settings.generation, sink)
    return time.perf_counter() - began


def _same_bits(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether tensors are the same, NaNs and signs of zeros included."""
    if len(ours) != len(theirs):
        return False
    return all(
        torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
        for one, other in zip(ours, theirs, strict=True)
    )
