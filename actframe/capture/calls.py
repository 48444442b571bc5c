"""One forward pass, as the arguments of the model's forward describe it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from actframe.errors import CaptureError

__all__ = ["Call", "cache_address", "read_call"]


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
        logits_by_index: whether the head computes columns that an index names.
        encoder_states: what a decoder attends to, or None.
        fired: how often each site was emitted.
    """

    rows: int = 0
    width: int = 0
    ids: list[list[int]] | None = None
    real: list[list[bool]] | None = None
    cache: Any = None
    start: int = 0
    logits_by_index: bool = False
    encoder_states: Tensor | None = None
    fired: Counter[str] = field(default_factory=Counter)


def read_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Read a call's ids, padding and cache now, before the forward changes any of them.

    Raises:
        CaptureError: the arguments put sequences together in a way that cannot be told apart.
    """
    given = _bind(module, args, kwargs)
    cache = given.get("past_key_values")
    _refuse_what_cannot_be_followed(given, cache)
    states = given.get("encoder_hidden_states")
    call = Call(
        cache=cache,
        logits_by_index=isinstance(given.get("logits_to_keep"), Tensor),
        encoder_states=states if isinstance(states, Tensor) else None,
    )
    ids = given.get("input_ids")
    values = ids if ids is not None else given.get("inputs_embeds")
    if not isinstance(values, Tensor):
        return call
    call.rows, call.width = values.shape[:2]
    call.ids = ids.tolist() if ids is not None else None
    # A static cache hands out a live tensor that the forward moves on, so it is read as a number at once.
    call.start = int(cache.get_seq_length()) if cache is not None else 0
    call.real = _real_columns(given.get("attention_mask"), call.rows, call.width, call.start)
    _refuse_packed(given.get("position_ids"), call)
    return call


def cache_address(cache: Any) -> int | None:
    """Where the first keys of a cache are in memory; something else when its rows were reordered or selected."""
    cache = getattr(cache, "self_attention_cache", cache)
    if getattr(cache, "offloading", False):
        return None
    keys = next((layer.keys for layer in getattr(cache, "layers", ()) if isinstance(_keys(layer), Tensor)), None)
    return None if keys is None else int(keys.data_ptr())


def _keys(layer: Any) -> Any:
    return getattr(layer, "keys", None)


def _bind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = dict(kwargs)
    if args:
        names = [name for name in inspect.signature(module.forward).parameters if name not in kwargs]
        bound.update(zip(names, args, strict=False))
    return bound


def _refuse_what_cannot_be_followed(given: dict[str, Any], cache: Any) -> None:
    if given.get("cu_seq_lens_q") is not None:
        raise CaptureError(
            "sequences packed into one row (continuous batching) cannot be told apart; use generate() to record them"
        )
    if cache is not None and not hasattr(cache, "get_seq_length"):
        raise CaptureError(
            f"past_key_values is a {type(cache).__name__}, which does not say how much it holds; "
            "pass a cache of transformers.cache_utils, or none"
        )
    for name in ("cache_params", "state"):
        if given.get(name) is not None:
            raise CaptureError(
                f"{name}= continues a recurrent state, which does not say what it has seen; run whole sequences "
                "through the model instead (use_cache=False in generate, where the model allows it)"
            )


def _refuse_packed(position_ids: Any, call: Call) -> None:
    """Refuse rows that hold several sequences: positions that do not rise by one from token to token."""
    if not isinstance(position_ids, Tensor) or position_ids.ndim != 2 or call.width < 2:
        return
    if position_ids.shape[1] != call.width:
        return
    steps = (position_ids[:, 1:] - position_ids[:, :-1] == 1).expand(call.rows, -1)
    if call.real is not None:
        real = torch.tensor(call.real, device=steps.device)
        steps = steps | ~(real[:, 1:] & real[:, :-1])
    if not bool(steps.all()):
        raise CaptureError(
            "position_ids do not rise by one within a row, as when several sequences are packed into it; "
            "give each sequence a row of its own"
        )


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
