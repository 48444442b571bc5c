"""One forward pass, as the arguments of the model's forward describe it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Call", "read_call"]


@dataclass
class Call:
    """One forward pass of one tower.

    Attributes:
        rows, width: shape of its input `(rows, width)`; both 0 until the first tensor passes where the arguments do
            not tell (a model that takes pixels, or any other module).
        ids: token ids by row, or None where embeddings were given.
        real: by row, whether each column holds a token and not padding; None where all do.
        cache: the KV cache object that was passed, or None.
        start: how many slots of the cache were filled before.
        fired: how often each site was emitted.
    """

    rows: int = 0
    width: int = 0
    ids: list[list[int]] | None = None
    real: list[list[bool]] | None = None
    cache: Any = None
    start: int = 0
    fired: Counter[str] = field(default_factory=Counter)

    def is_real(self, row: int) -> list[bool]:
        """Which columns of a row hold tokens."""
        return self.real[row] if self.real is not None else [True] * self.width


def read_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Read a call's ids, padding and cache now, before the forward changes any of them."""
    given = _bind(module, args, kwargs)
    ids = given.get("input_ids")
    values = ids if ids is not None else given.get("inputs_embeds")
    if not isinstance(values, Tensor):
        return Call()
    rows, width = values.shape[:2]
    cache = given.get("past_key_values")
    # A static cache hands out a live tensor that the forward moves on, so it is read as a number at once.
    start = int(cache.get_seq_length()) if cache is not None and hasattr(cache, "get_seq_length") else 0
    real = _real_columns(given.get("attention_mask"), rows, width, start)
    return Call(rows, width, ids.tolist() if ids is not None else None, real, cache, start)


def _bind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = dict(kwargs)
    if args:
        names = [name for name in inspect.signature(module.forward).parameters if name not in kwargs]
        bound.update(zip(names, args, strict=False))
    return bound


def _real_columns(mask: Any, rows: int, width: int, start: int) -> list[list[bool]] | None:
    """Which columns are tokens, from a 2-D padding mask or the diagonal of a 4-D attention mask."""
    if isinstance(mask, Mapping):
        mask = next((value for value in mask.values() if value is not None), None)
    if not isinstance(mask, Tensor):
        return None
    length = mask.shape[-1]
    first = start if length >= start + width else length - width
    if mask.ndim == 2:
        visible = mask[:, first : first + width] != 0
    else:
        # A padding column is the one that does not see itself.
        window = mask[..., first : first + width]
        own = window[..., 0, :] if mask.shape[-2] == 1 else window.diagonal(dim1=-2, dim2=-1)
        own = own.reshape(own.shape[0], -1, width)[:, 0]
        visible = own if own.dtype is torch.bool else own >= 0
    if bool(visible.all()):
        return None
    found: list[list[bool]] = visible.expand(rows, width).tolist()
    return found
