"""A receipt that recording changes nothing: the same questions with and without it, compared bit for bit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.errors import SettingsError
from actframe.runs.generation import generate_batch, run_generate
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Batch, RunPlan
from actframe.runs.recording import CaptureSettings, RecordedBatch
from actframe.runs.settings import RunSettings

__all__ = ["UnperturbedReceipt", "check_unperturbed"]

REPETITIONS = 3


@dataclass(frozen=True)
class UnperturbedReceipt:
    """What came of answering some questions with and without recording.

    Attributes:
        questions: how many, each in the batch that a run would compute it in.
        tokens: of their responses, in each pass.
        sites: how many were recorded.
        different_texts, different_logits: ids of the questions whose responses, or any of whose logits, differ.
        seconds_plain, seconds_recorded: medians of interleaved repetitions.
    """

    questions: int
    tokens: int
    sites: int
    different_texts: list[str]
    different_logits: list[str]
    seconds_plain: float
    seconds_recorded: float

    @property
    def is_unperturbed(self) -> bool:
        """Whether everything is the same."""
        return not (self.different_texts or self.different_logits)

    @property
    def overhead(self) -> float:
        """How much longer it takes with recording: 0.03 is 3%."""
        return self.seconds_recorded / self.seconds_plain - 1

    def as_json(self) -> dict[str, Any]:
        """The receipt in JSON-safe form."""
        return {**asdict(self), "is_unperturbed": self.is_unperturbed, "overhead": self.overhead}


def check_unperturbed(
    model: LoadedModel,
    benchmark: BenchmarkAdapter,
    settings: RunSettings,
    count: int,
    repetitions: int = REPETITIONS,
) -> UnperturbedReceipt:
    """Answer some questions with and without recording, in the same batches, and compare responses and logits.

    Args:
        model: who answers.
        benchmark: who asks.
        settings: of the run; without `capture`, embeddings and all layers are recorded.
        count: how many questions, the first ones.
        repetitions: how often each way is timed.

    Raises:
        SettingsError: choices are ranked and nothing is generated.
        BenchmarkError, PromptError, ModelError, SiteError: as `BenchmarkRun`.
    """
    if settings.scoring != "generate":
        raise SettingsError("what recording changes is checked on generated answers; use scoring='generate'")
    limit = count if settings.limit is None else min(count, settings.limit)
    plan = RunPlan(model, benchmark, replace(settings, limit=limit, num_trials=1))
    capture = settings.capture or CaptureSettings()
    texts: list[str] = []
    logits: list[str] = []
    tokens = 0
    for batch in plan.batches:
        plain = _answer(model, batch, settings, None)
        recorded = _answer(model, batch, settings, capture)
        for row, job in enumerate(batch):
            if not torch.equal(plain.sequences[row], recorded.sequences[row]):
                texts.append(job.question.id)
            if not _same_bits([each[row] for each in plain.logits], [each[row] for each in recorded.logits]):
                logits.append(job.question.id)
        tokens += len(plain.logits) * len(batch)
    times: dict[bool, list[float]] = {False: [], True: []}
    for repetition in range(repetitions):
        # Each way first in turn, so that neither always finds the machine as the other left it.
        for records in (False, True) if repetition % 2 else (True, False):
            times[records].append(_seconds(model, plan.batches, settings, capture if records else None))
    return UnperturbedReceipt(
        questions=len(plan.questions),
        tokens=tokens,
        sites=len(capture.recorder(model, RecordedBatch()).sites),
        different_texts=texts,
        different_logits=logits,
        seconds_plain=statistics.median(times[False]),
        seconds_recorded=statistics.median(times[True]),
    )


def _answer(model: LoadedModel, batch: Batch, settings: RunSettings, capture: CaptureSettings | None) -> Any:
    with capture.recorder(model, RecordedBatch()) if capture else nullcontext():
        requests = [job.request for job in batch]
        more = {"return_dict_in_generate": True, "output_logits": True}
        return run_generate(model, requests, settings.generation, **more)[0]


def _seconds(
    model: LoadedModel, batches: Sequence[Batch], settings: RunSettings, capture: CaptureSettings | None
) -> float:
    sink = RecordedBatch()
    began = time.perf_counter()
    with capture.recorder(model, sink) if capture else nullcontext():
        for batch in batches:
            generate_batch(model, [job.request for job in batch], settings.generation)
            if capture:
                sink.take([job.input_ids for job in batch])
    return time.perf_counter() - began


def _same_bits(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether tensors are the same, NaNs and signs of zeros included."""
    if len(ours) != len(theirs):
        return False
    return all(
        torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
        for one, other in zip(ours, theirs, strict=True)
    )
