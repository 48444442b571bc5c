"""What defines a run, as JSON: what a store keeps of its run, and what a command that goes on with it must match.

Some of it is said by the command (the model, the questions, the settings): with other values the answers would be
those of another run. The rest is where and with what it was computed: every record carries its own.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.capture.selection import Selection
from actframe.runs.models import LoadedModel
from actframe.runs.plan import RunPlan
from actframe.runs.recording import CaptureSettings, RecordedBatch
from actframe.runs.settings import RunSettings

__all__ = [
    "describe_capture",
    "describe_circumstances",
    "describe_model",
    "describe_run",
    "hash_of",
    "versions",
]

SAMPLED_VALUES = 16


def describe_run(
    model: LoadedModel, benchmark: BenchmarkAdapter, plan: RunPlan, settings: RunSettings
) -> dict[str, Any]:
    """Everything that defines a run, JSON-safe.

    Args:
        model: who answers. A few values of each of its parameters are hashed, so that other weights of the same name
            are told apart.
        benchmark: who asks.
        plan: the questions, and what is made of them.
        settings: how they are answered.
    """
    template = getattr(model.tokenizer, "chat_template", None) if plan.prompting.chat else None
    return {
        "model": describe_model(model),
        "benchmark": {
            "name": benchmark.name,
            **benchmark.identity(),
            "questions": len(plan.questions),
            "fingerprint": hash_of(
                (job.question.id, job.input_ids, *job.choice_ids) for job in plan.jobs[: len(plan.questions)]
            ),
        },
        "prompt": {**asdict(plan.prompting), "template": hash_of([template]) if template else None},
        "scoring": settings.scoring,
        "generation": asdict(settings.generation),
        "num_trials": settings.num_trials,
        "limit": settings.limit,
        "subjects": list(settings.subjects) if settings.subjects else None,
        "capture": describe_capture(model, settings.capture),
        # Where there are none nothing is said, as in the runs of versions that recorded none.
        **({"recorded_choices": plan.recorded_choices} if settings.record_choices else {}),
        **describe_circumstances(model),
    }


def describe_model(model: LoadedModel) -> dict[str, Any]:
    """What tells a model from others."""
    return {
        "name": model.name,
        "revision": model.revision,
        "class": type(model.model).__name__,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "weights": _weights(model.model),
    }


def describe_circumstances(model: LoadedModel) -> dict[str, Any]:
    """Where and with what it computes."""
    return {
        "device": str(model.device),
        "attn_implementation": getattr(model.model.config, "_attn_implementation", None),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What runs here."""
    return {
        "actframe": metadata.version("actframe"),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def describe_capture(model: LoadedModel, capture: CaptureSettings | None) -> dict[str, Any] | None:
    """What is recorded, and as what it is saved."""
    if capture is None:
        return None
    # The sites that the model has of what was asked: two ways to say the same are the same.
    selection = {**Selection.of(capture.select).as_json(), "sites": capture.recorder(model, RecordedBatch()).sites}
    return {**selection, "strategy": capture.strategy, "storage": capture.storage}


def hash_of(parts: Iterable[Any]) -> str:
    """One hash of JSON-safe values."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"


def _weights(model: nn.Module) -> str:
    """A hash of the first and last values of each parameter: reading a large model whole would take minutes."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(f"{tuple(parameter.shape)} {parameter.dtype}\n".encode())
        # Tensors of a kind of their own (sharded, quantized, elsewhere) have no values that can be read like this.
        if type(parameter) in (nn.Parameter, Tensor) and not parameter.is_meta and parameter.numel():
            values = parameter.detach()
            for end, part in ((0, slice(SAMPLED_VALUES)), (-1, slice(-SAMPLED_VALUES, None))):
                row = values[(end,) * (values.dim() - 1)].reshape(-1)[part]
                digest.update(row.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
