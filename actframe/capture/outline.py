"""The outline of a layout: what was found in a model, what was not, and why, in JSON-safe form."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from torch import nn

from actframe.capture.layout import ModelLayout, Tower
from actframe.capture.parts import PART_NAMES
from actframe.capture.places import Axes, Place

__all__ = ["axis_names", "outline"]

_AXES: dict[Axes, list[str]] = {
    "streams": ["pos", "stream", "d_model"],
    "streams_first": ["pos", "stream", "d_model"],
    "packed_streams": ["pos", "stream", "d_model"],
    "logits": ["pos", "vocabulary"],
    "pattern": ["head", "pos", "key"],
}
_LAST = {"mlp_act": "d_mlp", "router_logits": "expert"}
_EXPECTED = {
    "attn_out": "no child of this block has the role of attention",
    "mlp_out": "no child of this block has the role of the MLP",
}
"""What a block is expected to have: what is said where nothing is known of it."""


def axis_names(site: str, place: Place) -> list[str]:
    """The names of the axes that one record has for a site of the layout."""
    return _AXES.get(place.axes) or ["pos", _LAST.get(site.rpartition(".")[2], "d_model")]


def outline(model: nn.Module, layout: ModelLayout) -> dict[str, Any]:
    """What a layout says of a model: its towers, in each the blocks in runs that are alike, and the head."""
    head = layout.places.get("logits")
    return {
        "class": type(model).__name__,
        "towers": [_tower(model, layout, tower) for tower in layout.towers],
        "logits": None if head is None else _module(model, head.module),
    }


def _tower(model: nn.Module, layout: ModelLayout, tower: Tower) -> dict[str, Any]:
    blocks = [_block(model, layout, tower, number) for number in range(len(tower.blocks))]
    stream = layout.places.get(f"{tower.prefix}layer_0")
    return {
        "prefix": tower.prefix,
        "root": _module(model, tower.root),
        "axes": axis_names("layer_0", stream or Place("")),
        "blocks": [_run(list(run)) for _, run in groupby(blocks, key=lambda block: block["alike"])],
        "final_norm": None if tower.final_norm is None else _module(model, tower.final_norm),
    }


def _block(model: nn.Module, layout: ModelLayout, tower: Tower, number: int) -> dict[str, Any]:
    path, layer = tower.blocks[number], f"{tower.prefix}layer_{number}"
    parts, missing = {}, {}
    for name in PART_NAMES[1:]:
        site = f"{layer}.{name}"
        if (place := layout.places.get(site)) is not None:
            inner = place.module.removeprefix(f"{path}.")
            parts[name] = {**_module(model, place.module), "path": inner, "side": place.side, "item": place.item}
        elif reason := layout.refused.get(site) or _EXPECTED.get(name):
            missing[name] = reason
    kind = type(model.get_submodule(path)).__name__
    return {"path": path, "site": layer, "alike": (kind, str(parts), str(missing)), "parts": parts, "missing": missing}


def _run(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Blocks that follow each other and are alike, as one."""
    first, last = blocks[0], blocks[-1]
    return {
        "sites": [first["site"], last["site"]],
        "paths": [first["path"], last["path"]],
        "count": len(blocks),
        "class": first["alike"][0],
        "parts": first["parts"],
        "missing": first["missing"],
    }


def _module(model: nn.Module, path: str) -> dict[str, Any]:
    return {"path": path, "class": type(model.get_submodule(path)).__name__}
