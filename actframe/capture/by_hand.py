"""What a user says of a model's parts, checked against the model before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from actframe.capture.layout import ModelLayout
from actframe.errors import LayoutError, nearest

__all__ = ["checked_layout", "checked_stacks"]


def checked_layout(model: nn.Module, layout: Any) -> ModelLayout:
    """The layout, if every module that it names is in the model.

    Raises:
        LayoutError: it names others, or is no layout.
    """
    if not isinstance(layout, ModelLayout):
        raise LayoutError(
            f"layout= takes a ModelLayout, not {type(layout).__name__}; to name the list of blocks alone, use blocks="
        )
    known = dict(model.named_modules())
    named = {f"site {site}": place.module for site, place in layout.places.items()}
    for tower in layout.towers:
        label = f"tower {tower.prefix!r}"
        named |= {f"block {number} of {label}": path for number, path in enumerate(tower.blocks)}
        named |= {f"the root of {label}": tower.root, f"the span of {label}": tower.span}
    absent = {what: path for what, path in named.items() if path not in known}
    if absent:
        what, path = next(iter(absent.items()))
        more = f", nor {len(absent) - 1} others" if len(absent) > 1 else ""
        raise LayoutError(
            f"the layout names {path!r} as {what}, and {type(model).__name__} has no such module"
            f"{nearest(path, known)}{more}; model.named_modules() lists what it has"
        )
    prefixes = {tower.prefix for tower in layout.towers} or {""}
    for site, place in layout.places.items():
        if place.tower not in prefixes:
            raise LayoutError(
                f"the layout has {site} in tower {place.tower!r}, which it does not describe; "
                f"its towers: {', '.join(map(repr, sorted(prefixes)))}"
            )
    return layout


def checked_stacks(model: nn.Module, blocks: Any) -> dict[str, str]:
    """The path of each tower's list of blocks by site prefix, if they are lists of modules.

    Raises:
        LayoutError: a path is no list of modules, or a prefix is none.
    """
    stacks = {"": blocks} if isinstance(blocks, str) else blocks
    if not isinstance(stacks, Mapping) or not stacks:
        raise LayoutError(
            f"blocks= takes the dotted path of a list of modules, or such paths by site prefix, not {blocks!r}"
        )
    for prefix, path in stacks.items():
        if prefix != "" and not (isinstance(prefix, str) and prefix.endswith(".") and prefix[:-1].isidentifier()):
            raise LayoutError(f"a prefix of sites is a word with a dot, like 'vision.', or nothing; not {prefix!r}")
        _check_stack(model, path)
    return dict(stacks)


def _check_stack(model: nn.Module, path: Any) -> None:
    known = dict(model.named_modules())
    found = known.get(path)
    if isinstance(found, nn.ModuleList | nn.Sequential) and len(found):
        return
    fault = "is not in the model" if found is None else f"is a {type(found).__name__}, not a list of modules"
    if isinstance(found, nn.ModuleList | nn.Sequential):
        fault = "is empty"
    lists = {
        name: len(module)
        for name, module in known.items()
        if isinstance(module, nn.ModuleList | nn.Sequential) and name
    }
    outermost = [name for name in lists if lists[name] and not any(name.startswith(f"{other}.") for other in lists)]
    there = ", ".join(f"{name} ({lists[name]})" for name in outermost) or "none"
    raise LayoutError(
        f"blocks={path!r} {fault}; the lists of modules in {type(model).__name__}, with their lengths: {there}"
    )
