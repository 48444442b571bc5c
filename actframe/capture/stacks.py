"""The stack of blocks around one residual stream, found by structure in any model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from actframe.errors import LayoutError

__all__ = ["Role", "blocks_in_order", "find_stack"]

Role = Literal["encoder", "decoder"]
"""Which of two stacks; a model that has one is a decoder here."""

_STACK_NAME = re.compile(r"(^|\.)(layers?|h|blocks?)$")


def find_stack(model: nn.Module, scope: nn.Module, scope_path: str, role: Role) -> str | None:
    """The dotted path of the list of blocks. Each rule narrows the candidates only where it leaves any."""
    lists = _lists(model, nn.ModuleList) or _lists(model, nn.Sequential)
    prefix = f"{scope_path}." if scope_path else ""
    count = _block_count(model, role)
    rules: list[Callable[[str], bool]] = [
        lambda path: all(_is_block(child) for child in lists[path].children()),
        lambda path: path.startswith(prefix),
        lambda path: _STACK_NAME.search(path) is not None,
        lambda path: len(lists[path]) == count,
    ]
    candidates = list(lists)
    for rule in rules:
        candidates = [path for path in candidates if rule(path)] or candidates
    if not candidates:
        return None
    depth = min(path.count(".") for path in candidates)
    candidates = [path for path in candidates if path.count(".") == depth]
    if len(candidates) > 1:
        raise LayoutError(
            f"several lists of modules in {type(model).__name__} could be its blocks: {', '.join(candidates)}; "
            f"name the right one, as in ActivationRecorder(model, blocks={candidates[0]!r})"
        )
    return candidates[0]


def blocks_in_order(model: nn.Module, stack: str, role: Role | None) -> tuple[str, ...]:
    """The dotted paths of a stack's blocks in the order of their calls: one block may serve as all the layers.

    In which order several blocks serve as more layers than there are blocks, nothing tells; they stand here once, and
    the forward pass is refused as soon as one of them runs again.
    """
    blocks = tuple(f"{stack}.{name}" for name, _ in model.get_submodule(stack).named_children())
    count = _block_count(model, role) if role is not None and len(blocks) == 1 else None
    return blocks * (count or 1)


def _lists(model: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    return {
        path: module for path, module in model.named_modules() if isinstance(module, kind) and list(module.children())
    }


def _is_block(module: nn.Module) -> bool:
    return any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(module).__mro__)


def _block_count(model: nn.Module, role: Role) -> int | None:
    config = getattr(model, "config", None)
    if config is None:
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = {"encoder": ["encoder_layers"], "decoder": ["decoder_layers", "num_decoder_layers"]}[role]
    for name in [*names, "num_hidden_layers"]:
        if isinstance(count := getattr(text, name, None), int):
            return count
    return None
