"""A few answers of a run, really given, to learn how large and how fast all of them will be."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actframe.capture.selection import Selection
from actframe.records.bundle import Bundle
from actframe.records.record import ActivationRecord
from actframe.runs.answering import answer_batch, unrecorded
from actframe.runs.generation import Response
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Job
from actframe.runs.recording import recorded_batches
from actframe.runs.settings import RunSettings
from actframe.runs.sizes import AnswerSizes
from actframe.storage.files import backend_named

__all__ = ["Sample", "compression", "first_pass", "take_sample"]

MEASURED_BYTES = 32 << 20
"""How much of a sample is written to see how well a backend compresses it."""


@dataclass(frozen=True)
class Sample:
    """What a few answers tell of all.

    Attributes:
        sizes: how large answers are.
        ratio: how much smaller the storage backend makes their activations.
        records: of the answers.
        seconds: what the model took for them, recorder included.
    """

    sizes: AnswerSizes
    ratio: float
    records: list[ActivationRecord]
    seconds: float


def take_sample(model: LoadedModel, settings: RunSettings, jobs: list[Job], max_new_tokens: int) -> Sample:
    """Let the model answer some questions in one batch, and forget the answers.

    Args:
        model: who answers.
        settings: of the run.
        jobs: what is asked.
        max_new_tokens: where answers are cut off; 1 is one forward pass over the prompts.
    """
    generation = dataclasses.replace(settings.generation, max_new_tokens=max_new_tokens)
    capture = settings.capture
    began = time.monotonic()
    with recorded_batches(capture, model, settings.scoring) as sink:
        answered = answer_batch(model, jobs, generation, sink)
    seconds = time.monotonic() - began
    records = [each.record for each in answered]
    selection = Selection.of(capture.select if capture else None)
    sizes = AnswerSizes.of(records[0], selection, model.is_encoder_decoder)
    return Sample(sizes, compression(records, capture.storage) if capture else 1.0, records, seconds)


def first_pass(model: LoadedModel, settings: RunSettings, job: Job) -> Sample:
    """What one forward pass over one prompt tells; none is needed where nothing is recorded."""
    if settings.capture is None:
        record = unrecorded(model, job, Response("", [], len(job.input_ids), truncated=True), 1)
        return Sample(AnswerSizes.of(record, Selection(), model.is_encoder_decoder), 1.0, [record], 0.0)
    return take_sample(model, settings, [dataclasses.replace(job, records_choices=False)], max_new_tokens=1)


def compression(records: list[ActivationRecord], storage: str) -> float:
    """How much smaller a storage backend makes the activations of some records, tried on the first 32 MiB of them."""
    columns: dict[str, list[Tensor]] = {}
    room = MEASURED_BYTES // max(1, len(records[0].activations))
    for site in records[0].activations:
        for record in records:
            flat = record.activations[site].reshape(-1)
            left = room - sum(piece.nbytes for piece in columns.get(site, ()))
            columns.setdefault(site, []).append(flat[: max(0, left) // flat.element_size()])
    tensors = {site: torch.cat(pieces) for site, pieces in columns.items()}
    backend = backend_named(storage)
    with tempfile.TemporaryDirectory(prefix="actframe-") as folder:
        empty, full = (Path(folder) / f"{name}{backend.suffix}" for name in ("empty", "full"))
        backend.write(empty, Bundle({site: tensor[:0] for site, tensor in tensors.items()}))
        backend.write(full, Bundle(tensors))
        written = full.stat().st_size - empty.stat().st_size
    taken = sum(tensor.nbytes for tensor in tensors.values())
    # A pass over a prompt has no rows of the response, say.
    return taken / max(1, written) if taken else 1.0
