"""Tensor parallel: several processes compute one model, and each holds a part of its wider tensors.

The residual stream and what is added to it is whole in every process, and the same. What lies between (neurons, the
heads of an attention pattern) is there in parts, of which no process has all.
"""

from __future__ import annotations

from typing import Any

import torch.distributed
from torch import nn

from actframe.capture.layout import ModelLayout, Place
from actframe.capture.sites import MODULE
from actframe.capture.wrappers import wrapped

__all__ = ["is_first_of_its_group", "refusal_of_a_part"]

_PARTS = ("mlp_act", "attn_probs")


def is_first_of_its_group(model: nn.Module) -> bool:
    """Whether this process is the one to hand over what all processes of a tensor-parallel model compute alike."""
    return _place_in_group(wrapped(model)[1]) == 0


def refusal_of_a_part(site: str, model: nn.Module, layout: ModelLayout, place: Place) -> str | None:
    """Why a site of a tensor-parallel model is not whole in any process; None where it is."""
    inner: Any = wrapped(model)[1]
    if not _is_tensor_parallel(inner):
        return None
    if site.startswith(MODULE):
        known = {(other.module, other.side) for name, other in layout.places.items() if not name.endswith(_PARTS)}
        whole = (place.module, place.side) in known or any(
            block.startswith(f"{place.module}.") or not place.module
            for tower in layout.towers
            for block in tower.blocks
        )
    else:
        whole = not site.endswith(_PARTS)
    if whole:
        return None
    return (
        f"may be split over the {inner.tp_size} processes that compute this model, so that none has it whole; "
        "load the model without a tensor-parallel plan to record it"
    )


def _is_tensor_parallel(model: Any) -> bool:
    return (getattr(model, "tp_size", None) or 1) > 1 and torch.distributed.is_initialized()


def _place_in_group(model: Any) -> int:
    if not _is_tensor_parallel(model):
        return 0
    mesh = getattr(model, "_device_mesh", None)
    if mesh is None or "tp" not in (mesh.mesh_dim_names or ()):
        return torch.distributed.get_rank() % int(model.tp_size)
    return int(mesh["tp"].get_local_rank())
