"""What a run will take in disk, memory and time, from a few of its answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from actframe.runs.models import LoadedModel
from actframe.runs.plan import Batch
from actframe.runs.run import BenchmarkRun
from actframe.runs.sampling import Sample, take_sample
from actframe.runs.settings import RunSettings
from actframe.storage.spool import MEMORY_BYTES

__all__ = ["MemoryEstimate", "RunEstimate", "estimate_run"]

SAMPLED_ANSWERS = 4

"""What a store gathers in memory of a shard in the making before it goes to disk."""

SCRATCH_BYTES = 64 << 20
"""The recorder takes memory in pieces of this size."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory at the peak, without what the model needs to compute (its KV cache, attention, logits).

    Attributes:
        model: the weights, on the model's device.
        batch: the activations of the largest batch.
        recorder: the recorder's copy of them while their sequences grow.
        store: what waits to be written, and the column of a shard that is written.
    """

    model: int
    batch: int
    recorder: int
    store: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.model + self.batch + self.recorder + self.store


@dataclass(frozen=True)
class RunEstimate:
    """What the rest of a run takes.

    Attributes:
        answers: how many are to be given; `total` is that and those that are there.
        sampled: how many were given to learn this.
        prompt_tokens: of an answer, on average.
        output_tokens: the same, of those sampled.
        max_new_tokens: how many there may be.
        token_bytes: the activations of one recorded position, in memory.
        answer_bytes, answer_bytes_max: of one answer on disk: expected on average, and if every answer became as long
            as it may.
        ratio: how much smaller the storage backend makes activations.
        disk_bytes, disk_bytes_max: of all answers.
        disk_free: how much fits on the disk; None where nobody knows.
        disk_allowed: how much more the settings allow; None where they set no limit.
        memory: at the peak.
        seconds: how long it takes, roughly.
        device: where the model is.
    """

    answers: int
    total: int
    sampled: int
    prompt_tokens: float
    output_tokens: float
    max_new_tokens: int
    token_bytes: int
    answer_bytes: int
    answer_bytes_max: int
    ratio: float
    disk_bytes: int
    disk_bytes_max: int
    disk_free: int | None
    disk_allowed: int | None
    memory: MemoryEstimate
    seconds: float
    device: str

    def as_json(self) -> dict[str, Any]:
        """The estimate in JSON-safe form."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}


def estimate_run(run: BenchmarkRun) -> RunEstimate:
    """Let the model answer up to four questions, and reckon from them what the rest of a run takes.

    The answers are forgotten, and nothing is written but to a temporary folder, where the storage backend is tried.

    Raises:
        ModelError, CaptureError: as `BenchmarkRun.execute`.
    """
    settings, plan, done = run.settings, run.plan, run.layout.done()
    batches = run.remaining()
    jobs = [job for batch in batches for job in batch if not job.is_done(done)]
    asked = plan.jobs[: min(SAMPLED_ANSWERS, settings.generation.batch_size)]
    longest = settings.generation.max_new_tokens
    sample = take_sample(run.model, settings, asked, longest)
    output_tokens = _mean([len(record.output_ids) for record in sample.records])
    sizes, prompts = sample.sizes, [len(job.input_ids) for job in jobs]
    usual = round(output_tokens)
    expected = sum(sizes.stored_bytes(*each, sample.ratio) for job in jobs for each in job.lengths(usual))
    most = sum(sizes.most_bytes(*each, sample.ratio) for job in jobs for each in job.lengths(longest))
    limit = settings.max_disk_bytes
    return RunEstimate(
        answers=len(jobs),
        total=len(plan.jobs),
        sampled=len(asked),
        prompt_tokens=_mean(prompts),
        output_tokens=output_tokens,
        max_new_tokens=longest,
        token_bytes=_token_bytes(sample),
        answer_bytes=expected // max(1, len(jobs)),
        answer_bytes_max=most // max(1, len(jobs)),
        ratio=sample.ratio,
        disk_bytes=expected,
        disk_bytes_max=most,
        disk_free=run.layout.free_bytes(),
        disk_allowed=None if limit is None else max(0, limit - run.layout.written().bytes_on_disk),
        memory=_memory(run.model, settings, sample, batches),
        seconds=_seconds(run.model, sample, batches),
        device=str(run.model.device),
    )


def _token_bytes(sample: Sample) -> int:
    rows = sum(max(1, len(record.positions)) for record in sample.records)
    return sum(tensor.nbytes for record in sample.records for tensor in record.activations.values()) // rows


def _memory(model: LoadedModel, settings: RunSettings, sample: Sample, batches: list[Batch]) -> MemoryEstimate:
    longest = settings.generation.max_new_tokens
    batch, kept = 0, 0
    for each in batches:
        lengths = [pair for job in each for pair in job.lengths(longest)]
        batch = max(batch, sum(sample.sizes.tensor_bytes(*pair) for pair in lengths))
        kept = max(kept, sum(sample.sizes.kept_bytes(*pair) for pair in lengths))
    sites = max(1, len(sample.records[0].activations))
    every = (pair for each in batches for job in each for pair in job.lengths(longest))
    total = sum(sample.sizes.tensor_bytes(*pair) for pair in every)
    store = 2 * min(total, MEMORY_BYTES) + min(total, settings.shard_bytes) // sites
    return MemoryEstimate(
        model=_model_bytes(model.model),
        batch=batch,
        # Its segments double as sequences grow.
        recorder=max(2 * kept, SCRATCH_BYTES) if settings.capture else 0,
        store=store if settings.layout == "store" else 0,
    )


def _model_bytes(model: nn.Module) -> int:
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())


def _seconds(model: LoadedModel, sample: Sample, batches: list[Batch]) -> float:
    """A CPU takes as long as there is to compute; an accelerator is hardly slower for a fuller batch."""
    fuller = sum(len(batch) for batch in batches) / len(sample.records)
    return sample.seconds * (fuller if model.device.type == "cpu" else len(batches))


def _mean(values: list[int]) -> float:
    return sum(values) / max(1, len(values))
