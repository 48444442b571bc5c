"""The records of choices, beside that of the answer: the whole sequence of each that was compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actframe.benchmarks.base import LETTERS, Likelihood, Question
from actframe.capture.selection import Selection
from actframe.records.record import ActivationRecord
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Job
from actframe.runs.recording import RecordedBatch
from actframe.runs.text_batches import TextBatches
from actframe.runs.text_encoding import EncodedText, Text, TextEncoder

__all__ = ["graded_choices", "record_choices"]

Place = tuple[int, int]
"""The number of a job in its batch, and of one of its choices."""


def record_choices(model: LoadedModel, jobs: Sequence[Job], sink: RecordedBatch) -> list[list[ActivationRecord]]:
    """The records of the choices of a batch whose likelihoods have just been computed, in the order of the choices.

    Those that went on from the prompts inside the recording are live. Others (see `rank_batch`) are computed once more,
    each whole in one pass over the first choices of all questions, over the second ones, and so forth; their records
    say `replay`.

    Args:
        model: who answers.
        jobs: of the batch, with rankings.
        sink: what its recorder has filled.
    """
    sequences = {
        (row, number): ids for row, job in enumerate(jobs) for number, ids in enumerate(_sequences(model, job))
    }
    records: dict[Place, ActivationRecord] = {
        place: record
        for place, record in zip(sequences, sink.take_followed(list(sequences.values())), strict=True)
        if record is not None
    }
    if missing := [place for place in sequences if place not in records]:
        records |= _replay(model, sink, {place: sequences[place] for place in missing})
    return [
        [records[row, number] for number in range(len(job.ranking.choices) if job.ranking else 0)]
        for row, job in enumerate(jobs)
    ]


def graded_choices(
    model: LoadedModel, job: Job, likelihoods: Sequence[Likelihood], records: Sequence[ActivationRecord]
) -> list[ActivationRecord]:
    """Records of choices with everything that is said about them, so that each can be understood alone.

    They have the answer's `question_id` and `trial`, and none of what makes a record an answer: `correct` above all.
    """
    question = job.question
    if not records:
        return []
    return [
        record.replace(
            question_id=question.id,
            trial=job.trial,
            choice=number,
            **_named(question, number),
            subject=question.subject,
            expected=question.answer or None,
            logprob=likelihood.loglikelihood,
            is_greedy=likelihood.greedy,
            scored_tokens=likelihood.tokens,
            prompt=job.prompt,
            prompt_tokens=len(record.input_ids),
            output_tokens=len(record.output_ids),
            model=model.name,
            device=str(model.device),
        )
        for number, (likelihood, record) in enumerate(zip(likelihoods, records, strict=True))
    ]


def _named(question: Question, number: int) -> dict[str, str | bool | None]:
    """What a choice is called, and whether it is the right one; None where the question has no such choice.

    Some benchmarks compare more than there are choices: each without its context as well, say.
    """
    if number >= len(question.choices):
        return {"choice_label": None, "choice_text": None, "is_expected": None}
    label = LETTERS[number] if number < len(LETTERS) else str(number + 1)
    # Of several right answers a benchmark says the letters with commas between them.
    right = [each.strip() for each in question.answer.split(",")]
    return {
        "choice_label": label,
        "choice_text": question.choices[number],
        "is_expected": label in right if question.answer else None,
    }


def _sequences(model: LoadedModel, job: Job) -> list[tuple[list[int], list[int]]]:
    """Each choice of a question: what is its prompt, and what follows."""
    if job.ranking is None:
        return []
    if model.is_encoder_decoder:
        return [(choice.context, choice.continuation) for choice in job.ranking.choices]
    return [job.ranking.split(choice) for choice in job.ranking.choices]


def _replay(
    model: LoadedModel, sink: RecordedBatch, sequences: dict[Place, tuple[list[int], list[int]]]
) -> dict[Place, ActivationRecord]:
    assert sink.capture is not None
    # What is selected of the answer, by name: not every strategy has the same sites.
    sites = sink.capture.recorder(model, sink).sites
    selection = replace(Selection.of(sink.capture.select), sites=sites)
    batches = TextBatches(model, selection, TextEncoder(model))
    rounds: dict[int, list[Place]] = {}
    for row, number in sequences:
        rounds.setdefault(number, []).append((row, number))
    found: dict[Place, ActivationRecord] = {}
    for places in rounds.values():
        texts = [EncodedText(Text(0, *sequences[place]), *sequences[place]) for place in places]
        found.update(zip(places, batches.compute_batch(texts), strict=True))
    return found
