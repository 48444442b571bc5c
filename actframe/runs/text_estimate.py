"""What capturing texts will take in disk and time, from a few of them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from actframe.runs.text_room import TextSizes
from actframe.runs.text_run import TextRun

__all__ = ["TextEstimate", "estimate_texts"]

SAMPLED_TEXTS = 32


@dataclass(frozen=True)
class TextEstimate:
    """What the rest of the work takes.

    Attributes:
        texts: how many are to be computed; `total` is that, those that are there, and those that are skipped.
        skipped: how many do not fit the context or are empty.
        tokens: of all texts that can be computed.
        sampled: how many were computed to learn this.
        token_bytes: the activations of one recorded position, in memory.
        ratio: how much smaller the storage backend makes activations.
        disk_bytes: of all records.
        disk_free: how much fits on the disk; None where nobody knows.
        disk_allowed: how much more the settings allow; None where they set no limit.
        seconds: how long it takes, roughly.
        device: where the model is.
    """

    texts: int
    total: int
    skipped: int
    tokens: int
    sampled: int
    token_bytes: int
    ratio: float
    disk_bytes: int
    disk_free: int | None
    disk_allowed: int | None
    seconds: float
    device: str

    def as_json(self) -> dict[str, Any]:
        """The estimate in JSON-safe form."""
        return asdict(self)


def estimate_texts(run: TextRun) -> TextEstimate:
    """Compute the first few texts, forget them, and reckon from them what the rest takes.

    Raises:
        PromptError, BenchmarkError, CaptureError: as `TextRun.execute`.
    """
    survey = run.survey()
    texts = survey.fitting - sum(run.done())
    sample = run.batches.first(run.data, SAMPLED_TEXTS)
    for _ in run.batches.compute(sample[:1]):
        pass  # what is computed first takes longer
    began = time.monotonic()
    records = [record for _, record in run.batches.compute(sample)]
    seconds = time.monotonic() - began
    share = texts / max(1, survey.fitting)
    sizes = TextSizes.of(records[0], run.model.is_encoder_decoder, run.settings.store) if records else None
    rows = sum(max(1, len(record.positions)) for record in records)
    own = sum(tensor.nbytes for record in records for tensor in record.activations.values())
    computed = sum(len(record.input_ids) + len(record.output_ids) for record in records)
    limit = run.settings.store.max_disk_bytes
    return TextEstimate(
        texts=texts,
        total=survey.total,
        skipped=survey.skipped,
        tokens=survey.tokens,
        sampled=len(records),
        token_bytes=own // max(1, rows),
        ratio=sizes.ratio if sizes else 1.0,
        disk_bytes=round(share * sizes.stored_bytes(survey)) if sizes else 0,
        disk_free=run.layout.free_bytes(),
        disk_allowed=None if limit is None else max(0, limit - run.layout.written().bytes_on_disk),
        seconds=share * survey.tokens * seconds / max(1, computed),
        device=str(run.model.device),
    )
