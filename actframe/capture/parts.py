"""The parts of one block: attention, MLP, its neurons and its router, by the roles that names of children express."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

from torch import Tensor, nn

from actframe.capture.exceptions import NO_PATTERN, OWN_RESIDUAL
from actframe.capture.places import Axes, Place

__all__ = ["NOTHING", "PART_NAMES", "Axes", "Declared", "Parts", "Place", "block_parts", "child_in_role"]

PART_NAMES = [
    "resid_pre",
    "attn_out",
    "attn_write",
    "mlp_out",
    "mlp_write",
    "mlp_act",
    "attn_probs",
    "router_logits",
]
"""The sites within a block, in the order in which they are listed."""

Declared = Mapping[str, Mapping[str, int] | None]
NOTHING: Declared = {}


@dataclass(frozen=True)
class Parts:
    """What was found in one block.

    Attributes:
        places: by the last part of the site's name.
        refused: why a site is not there, where the block has its role but it can be read in several ways, or not at
            all; a site that is in neither has no role in the block.
    """

    places: dict[str, Place] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


_ATTENTION = re.compile(
    r"((local|transient_?global)?self_?)?att(n|ention)?|multi_head_attention|rel_attn|linear_attn|mamba|mixer",
    re.IGNORECASE,
)
_ATTENTION_PROPER = re.compile(r"(self_?)?att(n|ention)?|multi_head_attention", re.IGNORECASE)
_OTHER_MIXER = re.compile(r"temporal_block|conv|fourier|time_mix", re.IGNORECASE)
"""What mixes tokens where no attention does."""

_MLP = re.compile(
    r"mlps?|mlp_block|ffn?[12]?|moe|feed_?forward[12]?(_macaron)?|dense(gated)?(relu|act)dense|block_sparse_moe|shared_mlp",
    re.IGNORECASE,
)
_ROUTER = re.compile(r"gate|router")
_IS_MLP = re.compile(r"MLP|MoE|FeedForward|FFN", re.IGNORECASE)
_OWN_NORM = re.compile(r"layer_?norm(_before_\w+)?", re.IGNORECASE)
_TAKES_RESIDUAL = {"residual", "input_tensor"}
"""Parameters of a forward that adds the residual stream by itself."""


def block_parts(block: nn.Module, path: str, declared: Declared = NOTHING) -> Parts:
    """The sites within one block, for as far as its structure tells them apart.

    Args:
        block: one of the stack.
        path: where it is in the model.
        declared: which modules the model itself says give `"attentions"` and `"router_logits"`, and which item of
            their output these are; None where it does not say.
    """
    parts = Parts()
    _find_attention(block, path, parts, declared.get("attentions"))
    _find_mlp(block, path, parts, declared.get("router_logits"))
    return parts


def child_in_role(block: nn.Module, role: str) -> list[str]:
    """The children that could be a block's `"attention"` or its `"mlp"`: directly in it, or in a list of sub-blocks."""
    for names in (_parts(block), list(_grandchildren(block))):
        found = [name for name in names if _role(block, name) == role]
        if found := [name for name in found if not _is_projection(block.get_submodule(name))]:
            return found
    if role == "attention" and (child_in_role(block, "mlp") or _has(block, "output.dense")):
        return [name for name in _children(block) if _OTHER_MIXER.fullmatch(name)]
    return []


def _parts(block: nn.Module) -> list[str]:
    """A block's children, and in place of a list that names a role the items of that list."""
    names: list[str] = []
    for name, child in block.named_children():
        listed = isinstance(child, nn.ModuleList) and _role(block, name) is not None
        names += [f"{name}.{index}" for index in _children(child)] if listed else [name]
    return names


def _role(block: nn.Module, name: str) -> str | None:
    """The role of a child; a `mixer` may be anything, so its class decides."""
    last = re.sub(r"\.\d+$", "", name).rpartition(".")[2]
    if _ATTENTION.fullmatch(last):
        is_mlp = last.lower() == "mixer" and _IS_MLP.search(type(block.get_submodule(name)).__name__)
        return "mlp" if is_mlp else "attention"
    # Experts that are not within an MLP stand beside one.
    return "mlp" if _MLP.fullmatch(last) or name == "experts" else None


def _find_attention(block: nn.Module, path: str, parts: Parts, patterns: Mapping[str, int] | None) -> None:
    found = child_in_role(block, "attention")
    if len(found) != 1:
        if found:
            parts.refused.update(dict.fromkeys(("attn_out", "attn_probs"), _several("attention", found)))
        return
    (name,) = found
    here, attention = f"{path}.{name}", block.get_submodule(name)
    _find_writes(block, path, parts, "attention", name)
    _find_pattern(attention, here, parts, patterns)


def _find_pattern(attention: nn.Module, here: str, parts: Parts, declared: Mapping[str, int] | None) -> None:
    """The pattern where the model says that it is; where the model says nothing, the second item of an attention."""
    if reason := NO_PATTERN.get(type(attention).__name__):
        parts.refused["attn_probs"] = reason
        return
    if declared is None:
        found = {_join(here, "self" if _has(attention, "self") else ""): 1}
        if reason := _no_pattern(attention.get_submodule("self") if _has(attention, "self") else attention):
            if _ATTENTION_PROPER.fullmatch(here.rpartition(".")[2]):
                parts.refused["attn_probs"] = reason
            return
    else:
        # A model may declare the sub-block around its attention, or what is inside it.
        found = {
            where: item
            for where, item in declared.items()
            if f"{here}.".startswith(f"{where}.") or where.startswith(f"{here}.")
        }
        if found and inspect.signature(attention.forward).return_annotation is Tensor:
            parts.refused["attn_probs"] = "its attention returns nothing but what it writes"
            return
    if len(found) > 1:
        parts.refused["attn_probs"] = _several("the pattern's", [where.removeprefix(f"{here}.") for where in found])
    elif found:
        ((where, item),) = found.items()
        parts.places["attn_probs"] = Place(where, item=item, axes="pattern")


def _no_pattern(attention: nn.Module) -> str | None:
    """Why a module, of which its model says nothing, may not give the pattern as second item; None where it does."""
    signature = inspect.signature(attention.forward)
    if "output_attentions" in signature.parameters:
        return "its attention gives the pattern only to a caller who asks for output_attentions"
    if len(get_args(signature.return_annotation)) != 2:
        return "neither the model nor its attention says where the pattern is in what it returns"
    return None


def _find_mlp(block: nn.Module, path: str, parts: Parts, routers: Mapping[str, int] | None) -> None:
    found = child_in_role(block, "mlp")
    if len(found) > 1:
        parts.refused.update(dict.fromkeys(("mlp_out", "mlp_act"), _several("the MLP", found)))
        return
    if not found:
        # Without a module of its own the MLP is two projections in the block; the second one writes.
        for projection in ("fc2", "output.dense"):
            if _has(block, projection):
                here = f"{path}.{projection}"
                parts.places.update({"mlp_out": Place(here), "mlp_act": Place(here, "input")})
                return
        return
    (name,) = found
    here, mlp = f"{path}.{name}", block.get_submodule(name)
    _find_writes(block, path, parts, "mlp", name)
    _find_neurons(mlp, here, parts, {w: item for w, item in (routers or {}).items() if f"{w}.".startswith(f"{here}.")})


def _find_neurons(mlp: nn.Module, here: str, parts: Parts, declared: Mapping[str, int]) -> None:
    routers = dict(declared)
    if not routers and _has(mlp, "experts"):
        routers = {f"{here}.{child}": 0 for child in _children(mlp) if _ROUTER.fullmatch(child)}
    if len(routers) == 1:
        ((where, item),) = routers.items()
        parts.places["router_logits"] = Place(where, item=item)
    elif routers:
        parts.refused["router_logits"] = _several("the router", [where.removeprefix(f"{here}.") for where in routers])
    if routers or _has(mlp, "experts"):
        parts.refused["mlp_act"] = "its MLP is a mixture of experts: each token goes to experts of its own"
    elif down := _down_projection(mlp):
        parts.places["mlp_act"] = Place(f"{here}.{down}", "input")


def _find_writes(block: nn.Module, path: str, parts: Parts, role: str, name: str) -> None:
    """What the child in a role gives, and what of it is written to the residual stream where a norm stands between."""
    site = "attn" if role == "attention" else "mlp"
    writer = _writer(block.get_submodule(name), role)
    if writer is None:
        parts.refused[f"{site}_out"] = _no_writer(name)
        return
    parts.places[f"{site}_out"] = Place(_join(f"{path}.{name}", writer))
    if norm := _write_norm(block, role):
        parts.places[f"{site}_write"] = Place(f"{path}.{norm}")


_ATTENTION_WRITES = ("post_self_attn_layernorm", "post_operator_norm", "post_norm1", "norm_post_attn")
_MLP_WRITES = ("post_feedforward_layernorm", "post_ffn_norm", "post_norm2")
_BEFORE_THE_MLP = ("pre_feedforward_layernorm", "pre_mlp_layernorm")


def _write_norm(block: nn.Module, role: str) -> str | None:
    """The norm between a module and the residual stream, as in sandwich-norm models."""
    there = _children(block)
    if any("residual" in name for name in there):
        return None  # a gate of the residual stream stands after the norm
    sandwiched = "input_layernorm" in there
    if role == "attention":
        # Elsewhere a norm of this name stands after attention in that it stands before the MLP, or on the sum.
        last = any(name in there for name in (*_BEFORE_THE_MLP, *_MLP_WRITES))
        names = (*_ATTENTION_WRITES, *(("post_attention_layernorm",) if last else ()))
    else:
        names = (*_MLP_WRITES, *(("post_mlp_layernorm",) if sandwiched else ()))
    return next((name for name in names if name in there), None)


def _writer(module: nn.Module, role: str) -> str | None:
    """Which part of a module in a role gives what is written to the residual stream: usually all of it.

    Where the module adds the residual by itself, it is the last projection before that; None where there is none.
    """
    children = _children(module)
    own_norm = any(_OWN_NORM.fullmatch(name) for name in children)
    if (own_norm or _has(module, "self")) and _has(module, "output.dense"):
        return "output.dense"
    if own_norm and len(inner := child_in_role(module, role)) == 1:
        return inner[0]
    adds = type(module).__name__ in OWN_RESIDUAL or _TAKES_RESIDUAL & set(inspect.signature(module.forward).parameters)
    if own_norm or adds:
        projections = [name for name in children if _is_projection(module.get_submodule(name))]
        return projections[-1] if projections else None
    return ""


def _several(role: str, found: list[str]) -> str:
    return f"{len(found)} children could be {role}: {', '.join(found)}"


def _no_writer(name: str) -> str:
    return f"{name} adds the residual stream by itself, and has no projection whose output could be taken before that"


def _down_projection(mlp: nn.Module) -> str | None:
    """The projection back to the residual stream: `w2` in the w1-w2-w3 convention, else the last one."""
    projections = [name for name, child in mlp.named_children() if _is_projection(child)]
    if len(projections) < 2:
        return None
    return "w2" if {"w1", "w2", "w3"} <= set(projections) else projections[-1]


def _is_projection(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) or (getattr(weight, "ndim", 0) == 2 and not isinstance(module, nn.Embedding))


def _children(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_children()]


def _grandchildren(block: nn.Module) -> Iterator[str]:
    """Children of the items of a block's lists, as in `layer.0.SelfAttention`."""
    for name, child in block.named_children():
        if isinstance(child, nn.ModuleList):
            for index, item in child.named_children():
                yield from (f"{name}.{index}.{part}" for part in _children(item))


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if name else path
