"""The parts of one block: attention, MLP, its neurons and its router, by the roles that names of children express."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

__all__ = ["PART_NAMES", "Axes", "Place", "block_places"]

PART_NAMES = ["resid_pre", "attn_out", "mlp_out", "mlp_act", "attn_probs", "router_logits"]
"""The sites within a block, in the order in which they are listed."""


Axes = Literal[
    "residual",
    "flat",
    "pos_first",
    "leading",
    "trailing",
    "streams",
    "streams_first",
    "packed_streams",
    "logits",
    "pattern",
    "row",
    "routed",
    "unknown",
]
"""How a site's tensor is laid out.

- `residual`: `(batch, pos, d)`; the first two axes may arrive flattened into one.
- `flat`: `(batch * pos, d)`, as experts see tokens, or `(pos, d)` where a tower packs all its rows into one.
- `pos_first`: `(pos, batch, d)`; the first two axes may arrive flattened into one.
- `leading`: `(batch, pos + more, d)`, where the model adds what is no position of the sequence behind those that are;
  `trailing`: before them. Records hold the positions of the sequence.
- `streams`: `(batch, pos, stream, d)`; `streams_first`: `(stream, batch, pos, d)`; `packed_streams`:
  `(batch, pos, stream * d)`. Records hold `(pos, stream, d)`.
- `logits`: `(batch, pos, vocabulary)`, where the last positions may be the only ones.
- `pattern`: `(batch, head, pos, key)`.
- `row`: `(batch, ...)`, all of it at one position, as convolutions have it; only where rows have one position.
- `routed`: `(token, d)` of some tokens, in an order of their own, as single experts see them; never taken.
- `unknown`: what any module may give; taken where it can only be `(batch, pos, ...)`, or `(batch, d)` of one position.
"""


@dataclass(frozen=True)
class Place:
    """Where one site's tensor passes by.

    Attributes:
        module: dotted path of the module.
        side: whether the tensor goes into the module or comes out of it.
        item: which item of the output, where that is a tuple.
        tower: prefix of the tower that the module works for.
        axes: how its tensor is laid out.
        streams: how many residual streams it holds beside each other, where its axes are those of streams.
        call, calls: which call of the module in a forward pass of the tower, from 0, and how many there are.
    """

    module: str
    side: Literal["input", "output"] = "output"
    item: int = 0
    tower: str = ""
    axes: Axes = "residual"
    streams: int = 1
    call: int = 0
    calls: int = 1


_ATTENTION_NAME = re.compile(r"(self_?)?(attn|attention)", re.IGNORECASE)
_MLP_NAME = re.compile(r"mlp|ffn?|moe|feed_?forward|dense(gated)?reludense|block_sparse_moe", re.IGNORECASE)
_ROUTER_NAME = re.compile(r"gate|router")


def block_places(block: nn.Module, path: str) -> dict[str, Place]:
    """The sites within one block, for as far as its structure tells them apart."""
    return {**_attention_places(block, path), **_mlp_places(block, path)}


def _attention_places(block: nn.Module, path: str) -> dict[str, Place]:
    name = _only_child(block, _ATTENTION_NAME)
    if name is None:
        return {}
    attention = block.get_submodule(name)
    here = f"{path}.{name}"
    if _has(attention, "self") and _has(attention, "output.dense"):
        # The module adds the residual and norms by itself; what attention writes is what its projection gives.
        return {
            "attn_out": Place(f"{here}.output.dense"),
            "attn_probs": Place(f"{here}.self", item=-1, axes="pattern"),
        }
    return {"attn_out": Place(here), "attn_probs": Place(here, item=-1, axes="pattern")}


def _mlp_places(block: nn.Module, path: str) -> dict[str, Place]:
    name = _only_child(block, _MLP_NAME)
    if name is None:
        # Without a module of its own the MLP is two projections in the block; the second one writes.
        for projection in ("fc2", "output.dense"):
            if _has(block, projection):
                here = f"{path}.{projection}"
                return {"mlp_out": Place(here), "mlp_act": Place(here, "input")}
        return {}
    here, mlp = f"{path}.{name}", block.get_submodule(name)
    places = {"mlp_out": Place(here)}
    if _has(mlp, "experts"):
        routers = [child for child, _ in mlp.named_children() if _ROUTER_NAME.fullmatch(child)]
        if len(routers) == 1:
            places["router_logits"] = Place(f"{here}.{routers[0]}")
    elif down := _down_projection(mlp):
        places["mlp_act"] = Place(f"{here}.{down}", "input")
    return places


def _down_projection(mlp: nn.Module) -> str | None:
    """The projection back to the residual stream: `w2` in the w1-w2-w3 convention, else the last one."""
    projections = [name for name, child in mlp.named_children() if _is_projection(child)]
    if len(projections) < 2:
        return None
    return "w2" if {"w1", "w2", "w3"} <= set(projections) else projections[-1]


def _is_projection(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) or (getattr(weight, "ndim", 0) == 2 and not isinstance(module, nn.Embedding))


def _only_child(block: nn.Module, role: re.Pattern[str]) -> str | None:
    """The one child in a role, directly in the block or in a list of sub-blocks; None if none or several."""
    for names in (_children(block), _grandchildren(block)):
        found = [name for name in names if role.fullmatch(name.rpartition(".")[2])]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _children(block: nn.Module) -> list[str]:
    return [name for name, _ in block.named_children()]


def _grandchildren(block: nn.Module) -> Iterable[str]:
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
