"""One forward pass, as the arguments of the model's forward describe it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actframe.errors import CaptureError

__all__ = [
    "Call",
    "cache_address",
    "filled_slots",
    "fit_shape",
    "own_cache",
    "read_call",
    "returned_cache",
    "tokens_before",
]


@dataclass
class Call:
    """One forward pass of one tower.

    Attributes:
        rows, width: shape of its input `(rows, width)`; both 0 until the first tensor passes where the arguments do
            not tell (a model that takes pixels, or any other module).
        ids: token ids by row, or None where embeddings were given.
        real: by row, whether each column holds a token and not padding; None where all do.
        cache: the KV cache that was passed (of a decoder's own attention), or a recurrent state, or None.
        start: how many slots of the cache were filled before; None where it is filled and does not say how far.
        mask: the attention mask that was passed, or what makes one for a width that is not told.
        logits_by_index: whether the head computes columns that an index names.
        logits_columns: which these are, where it is known.
        encoder_states: what a decoder attends to, or None.
        fired: the sites that were emitted.
    """

    rows: int = 0
    width: int = 0
    ids: list[list[int]] | None = None
    real: list[list[bool]] | None = None
    cache: Any = None
    start: int | None = 0
    mask: Any = None
    logits_by_index: bool = False
    logits_columns: list[int] | None = None
    encoder_states: Tensor | None = None
    fired: set[str] = field(default_factory=set)


def read_call(given: Mapping[str, Any]) -> Call:
    """Read a call's ids, padding and cache now, before the forward changes any of them.

    Args:
        given: the arguments by name.

    Raises:
        CaptureError: the arguments put sequences together in a way that cannot be told apart.
    """
    _refuse_what_cannot_be_followed(given)
    cache = own_cache(given)
    states = given.get("encoder_hidden_states")
    call = Call(
        cache=cache,
        logits_by_index=isinstance(given.get("logits_to_keep"), Tensor),
        encoder_states=states if isinstance(states, Tensor) else None,
    )
    ids = given.get("input_ids")
    values = ids if ids is not None else given.get("inputs_embeds")
    if not isinstance(values, Tensor) or values.ndim < (2 if ids is not None else 3):
        call.mask = given.get("attention_mask")
        return call
    call.rows, call.width = values.shape[:2]
    call.ids = ids.tolist() if ids is not None else None
    # A static cache hands out a live tensor that the forward moves on, so it is read as a number at once.
    call.start = filled_slots(cache)
    mask = given.get("attention_mask")
    if mask is not None:
        call.mask = mask
        call.real = _real_columns(mask, call.rows, call.width, call.start)
    _refuse_packed(given.get("position_ids"), call)
    return call


def fit_shape(call: Call, shape: tuple[int, int]) -> None:
    """Take in the rows and width of a call that the first tensor told, and with them its padding: of sound, say.

    Raises:
        CaptureError: there is padding, and the mask has another width.
    """
    call.rows, call.width = shape
    mask = call.mask(call.width) if callable(call.mask) else call.mask
    if not isinstance(mask, Tensor) or mask.ndim != 2 or bool((mask != 0).all()):
        return
    if tuple(mask.shape) != shape:
        raise CaptureError(
            f"the attention mask has shape {tuple(mask.shape)} in a forward pass of {call.rows} rows and {call.width} "
            "positions, so which of them are padding is not known; run each row by itself, without padding"
        )
    call.real = _real_columns(mask, call.rows, call.width, 0)


def tokens_before(call: Call) -> list[list[bool]] | None:
    """By row, which slots that were filled before are tokens, not padding, as far as its mask tells; None for all.

    Raises:
        CaptureError: the mask cannot tell.
    """
    mask, start = _one_mask(call.mask), call.start
    if not start or mask is None or mask.shape[-1] < start + call.width:
        return None
    # The last column sees every token before it, and no padding; in a sliding window it sees not even that.
    visible = mask[:, :start] != 0 if mask.ndim == 2 else _is_visible(mask[:, 0, -1, :start])
    found = _unless_all(visible, call.rows, start)
    if found is not None and isinstance(call.mask, Mapping) and call.mask.get("full_attention") is None:
        raise CaptureError(
            "a sliding window hides what a KV cache that was filled before holds, so padding in it cannot be told; "
            "begin the recording before the prompt is computed, or pass a 2-D attention_mask of the whole sequence"
        )
    return found


def own_cache(given: Any) -> Any:
    """The cache among a call's arguments, or in its output by name: a decoder's own, or a recurrent state."""
    look_up = given.get if isinstance(given, Mapping) else functools.partial(_attribute, given)
    cache = look_up("past_key_values")
    if cache is None:
        cache = look_up("cache_params")
    return getattr(cache, "self_attention_cache", cache)


def returned_cache(output: Any) -> Any:
    """The cache in a call's output, also where that is a tuple without names."""
    cache = own_cache(output)
    if cache is None and isinstance(output, tuple | list):
        cache = next((item for item in output if hasattr(item, "get_seq_length")), None)
    return getattr(cache, "self_attention_cache", cache)


def _attribute(output: Any, name: str) -> Any:
    return getattr(output, name, None)


def cache_address(cache: Any) -> int | None:
    """Where the first keys of a cache are in memory; something else when its rows were reordered or selected."""
    if getattr(cache, "offloading", False):
        return None
    keys = next((layer.keys for layer in getattr(cache, "layers", ()) if isinstance(_keys(layer), Tensor)), None)
    return None if keys is None else int(keys.data_ptr())


def _keys(layer: Any) -> Any:
    return getattr(layer, "keys", None)


def filled_slots(cache: Any) -> int | None:
    """How many slots of a cache are filled; None for a recurrent state that has seen some and does not say how many."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except ValueError:  # transformers' caches of recurrent layers alone
        return None if cache.has_previous_state() else 0


def _refuse_what_cannot_be_followed(given: Mapping[str, Any]) -> None:
    if given.get("cu_seq_lens_q") is not None:
        raise CaptureError(
            "sequences packed into one row (continuous batching) cannot be told apart; use generate() to record them"
        )
    for name in ("past_key_values", "cache_params"):
        cache = given.get(name)
        if cache is not None and not hasattr(cache, "get_seq_length"):
            raise CaptureError(
                f"{name} is a {type(cache).__name__}, which does not say how much it holds; "
                "pass a cache of transformers.cache_utils, or none"
            )
    for name in ("state", "mems", "past_buckets_states"):
        if given.get(name) is not None:
            raise CaptureError(
                f"{name}= continues a state of the model's own, which does not say what it has seen; run whole "
                "sequences through the model instead (use_cache=False in generate, where the model allows it)"
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


def _real_columns(mask: Any, rows: int, width: int, start: int | None) -> list[list[bool]] | None:
    """Which columns are tokens, from a 2-D padding mask or the diagonal of a 4-D attention mask."""
    mask = _one_mask(mask)
    if mask is None:
        return None
    length = mask.shape[-1]
    first = start if start is not None and length >= start + width else length - width
    if mask.ndim == 2:
        visible = mask[:, first : first + width] != 0
    else:
        # A padding column is the one that does not see itself.
        window = mask[..., first : first + width]
        own = window[..., 0, :] if mask.shape[-2] == 1 else window.diagonal(dim1=-2, dim2=-1)
        visible = _is_visible(own.reshape(own.shape[0], -1, width)[:, 0])
    return _unless_all(visible, rows, width)


def _one_mask(mask: Any) -> Tensor | None:
    if isinstance(mask, Mapping):
        full = mask.get("full_attention")
        mask = full if full is not None else next((value for value in mask.values() if value is not None), None)
    return mask if isinstance(mask, Tensor) and mask.ndim in (2, 4) else None


def _is_visible(mask: Tensor) -> Tensor:
    return mask if mask.dtype is torch.bool else mask >= 0


def _unless_all(visible: Tensor, rows: int, width: int) -> list[list[bool]] | None:
    if bool(visible.all()):
        return None
    found: list[list[bool]] = visible.expand(rows, width).tolist()
    return found
