"""One batch of a run: the model answers, and each answer is joined with its record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.records.record import ActivationRecord
from actframe.runs.choice_records import graded_choices, record_choices
from actframe.runs.generation import GenerationSettings, Response, generate_batch
from actframe.runs.grading import grade
from actframe.runs.identity import versions
from actframe.runs.likelihood import rank_batch
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Job
from actframe.runs.recording import RecordedBatch

__all__ = ["Answered", "answer_batch", "graded_records", "unrecorded"]


class Answered(NamedTuple):
    """What one job has come to.

    Attributes:
        response: what the model said.
        record: of the answer.
        choices: records of the choices, where these are recorded; else none.
    """

    response: Response
    record: ActivationRecord
    choices: Sequence[ActivationRecord] = ()


def answer_batch(
    model: LoadedModel, jobs: Sequence[Job], generation: GenerationSettings, sink: RecordedBatch | None
) -> list[Answered]:
    """Each job's response with what was recorded of it.

    Args:
        model: who answers.
        jobs: what is asked, in one batch.
        generation: how to answer.
        sink: of the recorder that is recording; without one, records have no activations.
    """
    choices: list[list[ActivationRecord]] = [[] for _ in jobs]
    if jobs[0].ranking is None:
        responses = generate_batch(model, [job.request for job in jobs], generation)
    else:
        responses, choices = _rank(model, jobs, sink)
    # Choices that do not even begin alike have nothing to record.
    recorded = iter(sink.take([job.input_ids for job in jobs if job.input_ids]) if sink is not None else ())
    return [
        Answered(
            response,
            next(recorded) if sink is not None and job.input_ids else unrecorded(model, job, response, len(jobs)),
            of_choices,
        )
        for job, response, of_choices in zip(jobs, responses, choices, strict=True)
    ]


def _rank(
    model: LoadedModel, jobs: Sequence[Job], sink: RecordedBatch | None
) -> tuple[list[Response], list[list[ActivationRecord]]]:
    """Responses without a text, which say how likely each choice is, and the records of these where they are asked."""
    rankings = [job.ranking for job in jobs if job.ranking is not None]
    records_choices = sink is not None and jobs[0].records_choices
    recorder = sink.recorder if sink is not None else None
    try:
        ranked = rank_batch(model, rankings, recorder, records_choices=records_choices)
        choices = record_choices(model, jobs, sink) if sink is not None and records_choices else [[] for _ in jobs]
    except BaseException:
        # The prompts are recorded when the choices begin; whoever tries again records them again.
        if sink is not None:
            sink.clear()
        raise
    responses = [
        Response("", [], len(job.input_ids), truncated=False, likelihoods=tuple(likelihoods))
        for job, likelihoods in zip(jobs, ranked, strict=True)
    ]
    return responses, choices


def graded_records(
    model: LoadedModel, benchmark: BenchmarkAdapter, job: Job, answered: Answered
) -> list[ActivationRecord]:
    """The records of one job, in the order of its keys, with everything that is said about what they are of."""
    answer = _graded_answer(model, benchmark, job, answered.response, answered.record)
    return [*graded_choices(model, job, answered.response.likelihoods or (), answered.choices), answer]


def _graded_answer(
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
