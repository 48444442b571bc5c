"""One batch of a run: the model answers, and each answer is joined with its record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.records.record import ActivationRecord
from actframe.runs.generation import GenerationSettings, Response, generate_batch
from actframe.runs.grading import grade
from actframe.runs.identity import versions
from actframe.runs.likelihood import rank_batch
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Job
from actframe.runs.recording import RecordedBatch

__all__ = ["answer_batch", "graded_record", "unrecorded"]


def answer_batch(
    model: LoadedModel, jobs: Sequence[Job], generation: GenerationSettings, sink: RecordedBatch | None
) -> list[tuple[Response, ActivationRecord]]:
    """Each job's response with its record.

    Args:
        model: who answers.
        jobs: what is asked, in one batch.
        generation: how to answer.
        sink: of the recorder that is recording; without one, records have no activations.
    """
    if jobs[0].ranking is not None:
        responses = _rank(model, jobs, sink)
    else:
        responses = generate_batch(model, [job.request for job in jobs], generation)
    # Choices that do not even begin alike have nothing to record.
    recorded = iter(sink.take([job.input_ids for job in jobs if job.input_ids]) if sink is not None else ())
    return [
        (
            response,
            next(recorded) if sink is not None and job.input_ids else unrecorded(model, job, response, len(jobs)),
        )
        for job, response in zip(jobs, responses, strict=True)
    ]


def _rank(model: LoadedModel, jobs: Sequence[Job], sink: RecordedBatch | None) -> list[Response]:
    """Responses without a text, which say how likely each choice is."""
    rankings = [job.ranking for job in jobs if job.ranking is not None]
    try:
        ranked = rank_batch(model, rankings, sink.recorder if sink is not None else None)
    except BaseException:
        # The prompts are recorded when the choices begin; whoever tries again records them again.
        if sink is not None:
            sink.clear()
        raise
    return [
        Response("", [], len(job.input_ids), truncated=False, likelihoods=tuple(likelihoods))
        for job, likelihoods in zip(jobs, ranked, strict=True)
    ]


def graded_record(
    model: LoadedModel, benchmark: BenchmarkAdapter, job: Job, response: Response, record: ActivationRecord
) -> ActivationRecord:
    """A record with everything that is said about the answer, so that it can be understood alone."""
    question = job.question
    return record.replace(
        **grade(benchmark, question, response),
        trial=job.trial,
        # The recorder's own prompt is what the model saw, chat template included.
        prompt=job.prompt,
        response=response.text,
        prompt_tokens=response.prompt_tokens,
        output_tokens=len(response.output_ids),
        chance=1 / len(question.choices) if question.choices else None,
        model=model.name,
        device=str(model.device),
    )


def unrecorded(model: LoadedModel, job: Job, response: Response, batch_size: int) -> ActivationRecord:
    """The record of an answer of which nothing was recorded: what a recorder says, without activations."""
    said: dict[str, Any] = {
        "prompt": job.prompt,
        "response": response.text,
        "model": model.name,
        "timestamp": datetime.now(UTC).isoformat(),
        "input_ids": job.input_ids,
        "output_ids": response.output_ids,
        "positions": [],
        "site_positions": {},
        "sites": [],
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "attn_implementation": getattr(model.model.config, "_attn_implementation", None),
        "batch_size": batch_size,
        "activations": {},
    }
    for name in ("actframe", "torch", "transformers"):
        said[f"{name}_version"] = versions()[name]
    return ActivationRecord(said)
