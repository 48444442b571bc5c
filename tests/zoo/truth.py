"""Which modules are a model's blocks, found without actframe's finder: from what passes through them in one forward.

Every list of modules is watched. Where the model returns its hidden states, the blocks are the list whose calls gave
just these, in this order. Elsewhere they are the list in which each call takes what the one before gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Calls:
    """What one list of modules computed: its modules in the order of their calls, with what went in and came out."""

    paths: list[str] = field(default_factory=list)
    given: list[Tensor | None] = field(default_factory=list)
    made: list[Tensor | None] = field(default_factory=list)

    def is_chain(self) -> bool:
        """Whether each call takes what the one before gave."""
        pairs = zip(self.made, self.given[1:], strict=False)
        return len(self.paths) > 1 and all(equal(made, given) for made, given in pairs)

    def gave(self, states: Sequence[Tensor]) -> bool:
        """Whether these hidden states are what went into the first call and what each call but the last one made."""
        ours = [*self.given[:1], *self.made]
        return len(ours) == len(states) > 1 and all(equal(*both) for both in zip(ours[:-1], states[:-1], strict=True))


def equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and same(one, other)


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, where not-a-number equals itself."""
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, Calls]]:
    """Every list of modules that runs inside the block, by its path."""
    seen: dict[str, Calls] = {}
    handles = []
    for path, parent in model.named_modules():
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            for name, child in parent.named_children():
                handles.append(child.register_forward_hook(_hook(seen, path, f"{path}.{name}"), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _hook(seen: dict[str, Calls], path: str, own: str) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls = seen.setdefault(path, Calls())
        calls.paths.append(own)
        calls.given.append(_tensor(args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))))
        calls.made.append(_tensor(output[0] if isinstance(output, tuple | list) and output else output))

    return hook


def _tensor(value: Any) -> Tensor | None:
    return value.detach().clone() if isinstance(value, Tensor) else None


def known_blocks(seen: dict[str, Calls], output: Any) -> dict[str, str]:
    """The lists of blocks by the name under which the model returns their states; `chain` where it returns none."""
    states = {
        name.removesuffix("hidden_states"): value
        for name, value in (output.items() if isinstance(output, dict) else ())
        if name.endswith("hidden_states") and isinstance(value, tuple | list) and _all_tensors(value)
    }
    found = {}
    for name, value in states.items():
        fitting = [path for path, calls in seen.items() if calls.gave(value)]
        if fitting:
            found[name] = min(fitting, key=lambda path: path.count("."))
    return found


def _all_tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(value, Tensor) for value in values)
