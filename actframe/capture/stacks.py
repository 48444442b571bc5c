"""The stack of blocks around one residual stream, found by structure in any model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from actframe.capture.exceptions import SEVERAL_STACKS
from actframe.errors import LayoutError

__all__ = ["Role", "blocks_in_order", "find_stack", "is_block"]

Role = Literal["encoder", "decoder"]
"""Which of two stacks; a model that has one is a decoder here."""

_STACK_NAME = re.compile(r"(^|\.)(layers?|h|blocks?)$")


def find_stack(model: nn.Module, scope: nn.Module, scope_path: str, role: Role, *, alone: bool = True) -> str | None:
    """The dotted path of the list of blocks; None where there is no list that could be it.

    Each rule narrows the candidates only where it leaves any.

    Args:
        model: where to look.
        scope: the module that should hold the blocks.
        scope_path: its dotted path.
        role: which of two stacks this is.
        alone: whether there is but one stack; of two, each lies within its own scope or does not exist.

    Raises:
        LayoutError: several lists are left.
    """
    lists = _lists(model, nn.ModuleList) or _lists(model, nn.Sequential)
    prefix = f"{scope_path}." if scope_path else ""
    count = _block_count(model, role)
    rules: list[Callable[[str], bool]] = [
        lambda path: all(is_block(child) for child in lists[path].children()),
        lambda path: path.startswith(prefix),
        lambda path: _STACK_NAME.search(path) is not None,
        lambda path: len(lists[path]) == count,
    ]
    allowed = {path: lists[path] for path in lists if alone or path.startswith(prefix)}
    candidates = list(allowed)
    for rule in rules:
        candidates = [path for path in candidates if rule(path)] or candidates
    if not candidates:
        return None
    depth = min(path.count(".") for path in candidates)
    candidates = [path for path in candidates if path.count(".") == depth]
    several, why = _several(model, lists)
    candidates = several or candidates
    if len(candidates) == 1:
        candidates += _nested(allowed, candidates[0])
    if len(candidates) > 1:
        raise LayoutError(_which(model, candidates, why))
    return candidates[0]


def _several(model: nn.Module, lists: dict[str, Any]) -> tuple[list[str], str]:
    """The lists of a model that is known to have several stacks, and why."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    pattern, why = SEVERAL_STACKS.get(str(kind), ("", ""))
    return [path for path in lists if pattern and re.search(rf"(^|\.){pattern}$", path)], why


def _nested(lists: dict[str, Any], found: str) -> list[str]:
    """Lists of the same kind of blocks that stand in lists of lists, as the stages of Funnel: they may be meant too."""
    kind = type(next(lists[found].children()))
    return [
        path
        for path, module in lists.items()
        if path != found
        and path.rpartition(".")[2].isdigit()
        and all(type(child) is kind for child in module.children())
    ]


def _which(model: nn.Module, candidates: list[str], why: str) -> str:
    """What to say where several lists are left."""
    parents, names = zip(*((path.rpartition(".")[0], path.rpartition(".")[2]) for path in candidates), strict=True)
    if not why and len(set(parents)) == 1 and not any(name.isdigit() for name in names):
        # As in XLM, where attention, norms and MLPs have lists of their own and nothing is a whole block.
        why = "beside each other they may well be the parts of its blocks, and none of them the blocks"
    return (
        f"several lists of modules in {type(model).__name__} could be its blocks: {', '.join(candidates)}"
        f"{f' ({why})' if why else ''}; name the right one, as in ActivationRecorder(model, blocks={candidates[0]!r}), "
        "or record module:<dotted path> sites"
    )


def blocks_in_order(model: nn.Module, stack: str, role: Role | None) -> tuple[str, ...]:
    """The dotted paths of a stack's blocks in the order of their calls: one block may serve as all the layers.

    In which order several blocks serve as more layers than there are blocks, nothing tells; they stand here once, and
    the forward pass is refused as soon as one of them runs again.
    """
    blocks = tuple(f"{stack}.{name}" for name, _ in model.get_submodule(stack).named_children())
    count = _block_count(model, role) if role is not None and len(blocks) == 1 else None
    return blocks * (count or 1)


def _lists(model: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    """The lists of modules that can be called: a list of lists has nothing that runs."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, kind)
        and list(module.children())
        and not any(isinstance(child, nn.ModuleList | nn.ModuleDict) for child in module.children())
    }


def is_block(module: nn.Module) -> bool:
    """Whether a module is what transformers checkpoints: a whole block."""
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
