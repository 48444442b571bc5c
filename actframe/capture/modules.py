"""`module:` sites: how the tensors of any module are laid out, for as far as the structure around it tells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from actframe.capture.exceptions import INNER_POSITION_FIRST
from actframe.capture.layout import ModelLayout, Place, nearest_config
from actframe.capture.parts import Axes
from actframe.capture.sites import INPUT, MODULE

__all__ = ["module_places"]

_OF_CHANNELS = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.GroupNorm,
)
"""What torch defines on `(batch, channel, ...)`."""

_OF_ALL_TOKENS = re.compile(r"experts|gate|router|shared_experts?(_gate)?|shared_mlp")
"""Parts of a mixture of experts that see every token, in the order of the sequences."""


def module_places(model: nn.Module, layout: ModelLayout) -> dict[str, Place]:
    """Every module's output and input as a site, each in the tower that the module belongs to."""
    main = layout.towers[-1].prefix if layout.towers else ""
    # What a module is known to give under another name has the axes that it has there.
    known = {(place.module, place.side): place for place in layout.places.values() if place.item == 0}
    told = dict(_told_by_structure(model, layout))
    places = {}
    for path, _ in model.named_modules():
        inside = [t.prefix for t in layout.towers if t.root and f"{path}.".startswith(f"{t.root}.")]
        tower = inside[0] if inside else main
        axes = told.get(path, "unknown")
        for ending, place in (("", Place(path, axes=axes)), (INPUT, Place(path, "input", axes=axes))):
            like = known.get((path, place.side), place)
            places[f"{MODULE}{path}{ending}"] = replace(place, tower=tower, axes=like.axes, streams=like.streams)
    return places


def _told_by_structure(model: nn.Module, layout: ModelLayout) -> Iterator[tuple[str, Axes]]:
    """The axes of those modules whose structure tells; what comes later is nearer to the module."""
    yield from _inside_blocks(model, layout)
    for path, module in model.named_modules():
        if isinstance(module, _OF_CHANNELS):
            yield path, "row"
        elif getattr(module, "batch_first", True) is False:
            yield from ((_join(path, name), "pos_first") for name, _ in module.named_modules())


def _inside_blocks(model: nn.Module, layout: ModelLayout) -> Iterator[tuple[str, Axes]]:
    for tower in layout.towers:
        if not tower.blocks:
            continue
        stream = layout.places.get(f"{tower.prefix}layer_0")
        turned = stream is not None and stream.axes == "pos_first"
        kind = getattr(nearest_config(model, tower.blocks[0]), "model_type", None)
        inner = INNER_POSITION_FIRST.get(str(kind), ("", ""))[0]
        for block in dict.fromkeys(tower.blocks):
            for name, module in model.get_submodule(block).named_modules():
                if turned or (inner and re.fullmatch(inner, name)):
                    yield _join(block, name), "pos_first"
                elif _is_routed(name, module):
                    yield _join(block, name), "routed"
                elif _OF_ALL_TOKENS.fullmatch(name.rpartition(".")[2]):
                    yield _join(block, name), "residual"
    for site, place in layout.places.items():
        if site.endswith(".mlp_act") and place.axes == "residual":
            yield from ((path, "residual") for path in _beside(model, place.module))


def _is_routed(name: str, module: nn.Module) -> bool:
    """Whether a module works on the tokens of one expert, or on those of all experts sorted by expert."""
    parts = name.split(".")
    stacked = any(weight.ndim == 3 for weight in module.parameters(recurse=False)) and not isinstance(
        module, _OF_CHANNELS
    )
    return "experts" in parts[:-1] or (stacked and parts[-1] != "experts" and "_linear" in parts[-1])


def _beside(model: nn.Module, down: str) -> Iterator[str]:
    """The modules of an MLP, which may see the tokens flattened, by the path of its down projection."""
    parent, _, name = down.rpartition(".")
    if name == "fc2":
        yield from (f"{parent}.{other}" for other in ("fc1", "activation_fn") if hasattr(_at(model, parent), other))
    elif name not in ("dense",):
        yield from (_join(parent, inner) for inner, _ in _at(model, parent).named_modules())


def _at(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path)


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)
