"""Attaching a strategy to a model, and what must be the same before and after: for the suite of strategies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from actframe.capture.base import CaptureStrategy, Emit
from actframe.capture.layout import ModelLayout
from actframe.capture.recorder import ActivationRecorder
from actframe.records.record import ActivationRecord
from actframe.testing.installed import installed
from actframe.testing.models import tiny_tokenizer
from actframe.testing.proofs.reference import same_bits

__all__ = [
    "NEW_TOKENS",
    "PROMPTS",
    "PlannedError",
    "assert_emitted",
    "failing",
    "generate",
    "ignore",
    "keep",
    "no_trace",
    "observe",
    "recorded",
    "some_ids",
    "tensors_of",
]

PROMPTS = ["hello", "hi there you", "to be or not to be"]
"""Of three lengths, so that two of them are padded."""

NEW_TOKENS = 4


class PlannedError(Exception):
    """Raised on purpose in the middle of a forward pass."""


def some_ids(seed: int = 0) -> Tensor:
    """Two rows of seven tokens."""
    return torch.randint(0, 250, (2, 7), generator=torch.Generator().manual_seed(seed))


def ignore(site: str, tensor: Tensor) -> None:
    """An `emit` that keeps nothing."""


def keep(kept: dict[str, Tensor]) -> Emit:
    """An `emit` that keeps a copy of what comes last of each site."""

    def emit(site: str, tensor: Tensor) -> None:
        kept[site] = tensor.detach().clone()

    return emit


def observe(strategy: CaptureStrategy, model: Any, layout: ModelLayout, sites: Sequence[str]) -> dict[str, Tensor]:
    """What a strategy emits in one forward pass."""
    kept: dict[str, Tensor] = {}
    with strategy.attach(model, layout, sites, keep(kept)):
        model(some_ids())
    return kept


def generate(model: Any) -> Tensor:
    """What a model answers to the prompts, padded on the left, without drawing."""
    encoded = tiny_tokenizer()(PROMPTS, return_tensors="pt", padding=True)
    inputs = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 258}
    answer: Tensor = model.generate(**inputs, max_new_tokens=NEW_TOKENS, **settings)
    return answer


def recorded(strategy: CaptureStrategy, model: Any, sites: Sequence[str]) -> list[ActivationRecord]:
    """The records of these answers."""
    with installed(type(strategy)), ActivationRecorder(model, sites, strategy=strategy.name) as recorder:
        generate(model)
    return list(recorder.records)


def tensors_of(output: Any, name: str = "the output") -> dict[str, Tensor]:
    """Every tensor of an output by name; caches are objects of their own, and not among them."""
    if isinstance(output, Tensor):
        return {name: output}
    items = output.items() if isinstance(output, Mapping) else enumerate(output) if isinstance(output, tuple) else ()
    return {key: tensor for part, value in items for key, tensor in tensors_of(value, f"{name}[{part!r}]").items()}


def assert_emitted(found: Mapping[str, Tensor], site: str, expected: Tensor, what: str) -> None:
    """A site was emitted, and is bit for bit what it should be."""
    assert site in found, f"{site} was asked for and not emitted"
    own = found[site]
    assert (own.dtype, own.shape) == (expected.dtype, expected.shape), (
        f"{site} was emitted as {own.dtype} {tuple(own.shape)}; {what} is {expected.dtype} {tuple(expected.shape)}"
    )
    assert same_bits(own, expected), f"{site} is not bit for bit {what}"


@contextlib.contextmanager
def failing(model: Any, layout: ModelLayout) -> Iterator[None]:
    """Inside the block every forward pass raises before its third block."""

    def fail(*_: Any) -> None:
        raise PlannedError

    with model.get_submodule(layout.towers[-1].blocks[2]).register_forward_pre_hook(fail):
        yield


@contextlib.contextmanager
def no_trace(model: Any, when: str) -> Iterator[None]:
    """The block leaves every module of a model as it was: its hooks, its methods, its parameters, its settings."""
    before = _state(model)
    yield
    for path, now in _state(model).items():
        changed = [name for name in {**before[path], **now} if before[path].get(name) != now.get(name)]
        if changed:
            kind = type(model.get_submodule(path)).__name__
            pytest.fail(
                f"{path or 'the model'} ({kind}) is not as it was {when}: {', '.join(map(str, changed))} changed"
            )


def _state(model: Any) -> dict[str, dict[str, Any]]:
    return {path: _attributes(module) for path, module in model.named_modules()}


def _attributes(module: Any) -> dict[str, Any]:
    kind = type(module)
    found: dict[str, Any] = {"class": kind, "forward": kind.forward, "__call__": kind.__call__}
    for name, value in vars(module).items():
        found[name] = {key: id(item) for key, item in value.items()} if isinstance(value, dict) else id(value)
    if "config" in found:
        found["config"] = str(module.config)
    return found
