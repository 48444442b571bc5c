"""Wrappers around a model: PEFT's, DataParallel, torch.compile's, sentence-transformers', and people's own.

What they add stands outside the model that computes the residual stream. Its sites have the same names with a wrapper
around it and without.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import nn

from actframe.capture.layout import ModelLayout

__all__ = ["moved", "root_around", "wrapped"]


def wrapped(model: nn.Module) -> tuple[str, nn.Module]:
    """The dotted path and the module that a wrapper hands its input on to; the model itself where it wraps none.

    A module whose forward takes ids by name is a model of its own, with a head of its own, say. PEFT's take them too,
    and yet `generate` goes past them.
    """
    if _is_of_transformers(model):
        return "", model
    found = list(_outermost_models(model, ""))
    if len(found) != 1:
        return "", model
    path, inner = found[0]
    if hasattr(model, "get_base_model") or not _takes_ids(model):
        return path, inner
    return "", model


def root_around(model: nn.Module, path: str) -> str:
    """The dotted path of the module whose call begins and ends that of the model at `path`: mostly itself."""
    # sentence-transformers calls the method of its model, past the hooks on it.
    parent = path.rpartition(".")[0]
    takes = list(inspect.signature(model.get_submodule(parent).forward).parameters)
    return parent if parent and takes[:1] == ["features"] else path


def moved(layout: ModelLayout, path: str, root: str) -> ModelLayout:
    """The layout of a module as that of a model which has it at `path`, where `root` stands for the module itself."""

    def around(inner: str) -> str:
        return below(inner) if inner else root

    def below(inner: str) -> str:
        return f"{path}.{inner}" if inner else path

    towers = tuple(
        replace(
            tower,
            blocks=tuple(map(below, tower.blocks)),
            root=around(tower.root),
            span=around(tower.span),
            final_norm=None if tower.final_norm is None else below(tower.final_norm),
        )
        for tower in layout.towers
    )
    places = {site: replace(place, module=below(place.module)) for site, place in layout.places.items()}
    return replace(layout, towers=towers, places=MappingProxyType(places))


def _outermost_models(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        if _is_of_transformers(child):
            yield here, child
        else:
            yield from _outermost_models(child, here)


def _is_of_transformers(module: nn.Module) -> bool:
    # Importing its base class takes seconds; where nobody has, there is no such model.
    modeling: Any = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(module, modeling.PreTrainedModel)


def _takes_ids(model: nn.Module) -> bool:
    return bool({"input_ids", "inputs_embeds"} & set(inspect.signature(model.forward).parameters))
