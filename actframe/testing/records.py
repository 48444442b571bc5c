"""Records as a run leaves them, with random activations: for tests of sinks, stores and analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from actframe.records.record import ActivationRecord

__all__ = ["assert_same_record", "random_record"]


def random_record(
    number: int,
    length: int = 5,
    *,
    sites: Sequence[str] = ("embeddings", "layer_0", "layer_1"),
    d_model: int = 16,
    dtype: torch.dtype = torch.bfloat16,
    **said: Any,
) -> ActivationRecord:
    """The answer to question `number`, always the same: its last two positions are those of the response.

    Args:
        number: of the question; seeds the activations.
        length: how many positions are recorded.
        sites: the recorded sites.
        d_model: the width of the model.
        dtype: of the activations.
        said: what the record says besides, or instead.
    """
    generator = torch.Generator().manual_seed(number)
    prompt_length = max(length - 2, min(length, 1))
    return ActivationRecord(
        {
            "prompt": f"What is {number} + {number}?",
            "response": f" {2 * number}",
            "model": "tiny",
            "timestamp": "2026-01-31T12:00:00+00:00",
            "input_ids": list(range(prompt_length)),
            "output_ids": list(range(length - prompt_length + 1)),
            "positions": list(range(length)),
            "site_positions": {},
            "prompt_length": prompt_length,
            "sites": list(sites),
            "strategy": "hooks",
            "dtype": str(dtype).removeprefix("torch."),
            "recorded": "live",
            "question_id": f"sums/{number}",
            "trial": 0,
            "subject": "even" if number % 2 == 0 else "odd",
            "correct": number % 3 == 0,
            **said,
            "activations": {site: torch.randn(length, d_model, generator=generator).to(dtype) for site in sites},
        }
    )


def assert_same_record(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that two records say the same, and have the same activations bit for bit."""
    assert {**found, "activations": None} == {**expected, "activations": None}
    assert list(found["activations"]) == list(expected["activations"])
    for site, tensor in expected["activations"].items():
        own = found["activations"][site]
        assert own.dtype == tensor.dtype, site
        assert own.shape == tensor.shape, site
        assert torch.equal(own.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), site
