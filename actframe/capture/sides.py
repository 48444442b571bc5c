"""Towers beside the language model, which look at images or listen to sound: found by structure, as the blocks are."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from torch import nn

from actframe.capture.sites import MAIN_TOWERS
from actframe.capture.stacks import find_stack, is_block
from actframe.errors import LayoutError

__all__ = ["find_sides", "is_side", "side_root"]

_SIDES = {"vision.": ("image", "vision_config"), "audio.": ("audio", "audio_config")}
"""By the prefix of a tower's sites: what transformers calls its modality, and its part of the configuration."""


def is_side(prefix: str) -> bool:
    """Whether a tower with such site names stands beside a language model, where there is one."""
    return prefix not in MAIN_TOWERS


def find_sides(model: nn.Module, blocks: Collection[str]) -> dict[str, str]:
    """The dotted path of the list of blocks of each tower beside the language model, by site prefix.

    A tower of which nothing tells one list of blocks is left out: the language model does not need it.

    Args:
        model: where to look.
        blocks: the dotted paths of the language model's blocks, which no other tower has.
    """
    found: dict[str, str] = {}
    for prefix, (modality, part) in _SIDES.items():
        scopes = [_by_modality(model, modality), _by_config(model, part)]
        paths = [_path_of(model, scope) for scope in scopes if scope is not None]
        for path in paths:
            stack = _stack_in(model, path) if path and not _meets(path, blocks) else None
            if stack is None or stack in found.values():
                continue
            root = side_root(model, stack)
            if root and not _meets(root, blocks):
                found[prefix] = stack
                break
    return found


def side_root(model: nn.Module, stack: str) -> str:
    """The outermost module around the blocks of a tower beside the language model: it takes no ids, but pixels, say."""
    parts = stack.split(".")[:-1]
    for length in range(1, len(parts) + 1):
        module = model.get_submodule(path := ".".join(parts[:length]))
        takes_ids = {"input_ids", "inputs_embeds"} & set(inspect.signature(module.forward).parameters)
        if not takes_ids and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            return path
    return ""


def _by_modality(model: Any, modality: str) -> nn.Module | None:
    """What the model itself says is its encoder for a modality; itself where it has none."""
    getter = getattr(model, "get_encoder", None)
    if getter is None or "modality" not in inspect.signature(getter).parameters:
        return None
    found = getter(modality=modality)
    return found if isinstance(found, nn.Module) else None


def _by_config(model: nn.Module, part: str) -> nn.Module | None:
    """The outermost module that is made from one part of the configuration."""
    own = getattr(getattr(model, "config", None), part, None)
    if own is None:
        return None
    made = (module for module in model.modules() if type(getattr(module, "config", None)) is type(own))
    return next(made, None)


def _stack_in(model: nn.Module, path: str) -> str | None:
    """The one list of blocks in a module, taken as a model of its own."""
    scope = model.get_submodule(path)
    try:
        stack = find_stack(scope, scope, "", "encoder")
    except LayoutError:
        return None
    if stack is None or _has_blocks_beside(scope, stack):
        return None
    return f"{path}.{stack}"


def _has_blocks_beside(scope: nn.Module, stack: str) -> bool:
    """Whether other lists hold whole blocks too, as where one stack follows another one."""
    lists = {name: module for name, module in scope.named_modules() if isinstance(module, nn.ModuleList)}
    whole = [name for name, module in lists.items() if len(module) and all(map(is_block, module.children()))]
    return stack in whole and any(not f"{name}.".startswith(f"{stack}.") for name in whole)


def _meets(path: str, blocks: Collection[str]) -> bool:
    """Whether a module holds one of some blocks, or is in one."""
    return any(f"{block}.".startswith(f"{path}.") or f"{path}.".startswith(f"{block}.") for block in blocks)


def _path_of(model: nn.Module, wanted: nn.Module) -> str:
    return next((path for path, module in model.named_modules() if module is wanted), "")
