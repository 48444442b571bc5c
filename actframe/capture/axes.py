"""Axes of tensors: what a site's tensor says of which row and position.

A place says how its tensor is laid out (`Place.axes`), because sizes cannot: a batch may be as large as a sequence is
long. What does not fit what its place says is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from actframe.capture.calls import Call
from actframe.capture.parts import Axes, Place
from actframe.errors import CaptureError

__all__ = ["call_shape", "to_rows"]


def to_rows(site: str, place: Place, tensor: Tensor, call: Call, *, attached: bool = False) -> tuple[Tensor, int]:
    """A site's tensor as `(rows * columns, ...)`, detached, and the first column that it has.

    Args:
        site: its name, for errors.
        place: says how the tensor is laid out; not as a pattern.
        tensor: as the model computed it.
        call: the forward pass that it belongs to.
        attached: whether it stays attached to the graph that computed it.

    Raises:
        CaptureError: its axes are not the call's rows and columns, or cannot be told apart.
    """
    if not attached:
        tensor = tensor.detach()
    shape = tensor.shape
    if len(shape) == 3 and shape[0] == call.rows and shape[1] == call.width and place.axes in _PLAIN:
        return tensor.reshape(call.rows * call.width, shape[2]), 0
    return _READERS[place.axes](site, place, tensor, call)


def call_shape(site: str, place: Place, tensor: Tensor) -> tuple[int, int]:
    """The rows and columns of a forward pass whose arguments do not tell, from the first tensor that passes.

    Raises:
        CaptureError: the tensor does not tell either.
    """
    shape = tuple(tensor.shape)
    if place.axes == "row" and shape:
        return shape[0], 1
    told = place.axes not in ("leading", "trailing", "routed")
    if len(shape) == 2 and told:
        # A tower whose states have no batch axis has packed its rows into one; other modules have one column.
        return (shape[0], 1) if place.axes == "unknown" else (1, shape[0])
    wanted = {"pos_first": (1, 0), "streams_first": (1, 2), "pattern": (0, 2)}.get(place.axes, (0, 1))
    axes = 4 if place.axes in ("streams", "streams_first", "pattern") else 3
    if (told and len(shape) == axes) or (place.axes == "unknown" and len(shape) > 2):
        return shape[wanted[0]], shape[wanted[1]]
    raise CaptureError(
        f"{site} has shape {shape}, which does not tell what are its positions: {_WORDS[place.axes]} was expected; "
        f"{_WAY_OUT}"
    )


_PLAIN = frozenset({"residual", "unknown"})

_WORDS: dict[Axes, str] = {
    "residual": "(batch, pos, d)",
    "flat": "(batch * pos, d)",
    "pos_first": "(pos, batch, d)",
    "leading": "(batch, pos + more, d)",
    "trailing": "(batch, more + pos, d)",
    "streams": "(batch, pos, stream, d)",
    "streams_first": "(stream, batch, pos, d)",
    "packed_streams": "(batch, pos, stream * d)",
    "logits": "(batch, pos, vocabulary)",
    "pattern": "(batch, head, pos, key)",
    "row": "(batch, ...) of rows with one position each",
    "routed": "of all tokens in their own order",
    "unknown": "(batch, pos, ...)",
}

_WAY_OUT = "leave it out, or say how its tensor is laid out in a layout of your own (Place.axes in layout=)"


def _residual(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    # What a place names has a row for each token, so two axes can only be the tokens, flattened.
    if tensor.ndim == 3 and tensor.shape[:2] == (call.rows, call.width):
        return tensor.reshape(call.rows * call.width, tensor.shape[2]), 0
    return _flat(site, place, tensor, call)


def _flat(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if tensor.ndim == 2 and tensor.shape[0] == call.rows * call.width:
        return tensor, 0
    raise _unfit(site, place, tensor, call)


def _pos_first(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if tensor.ndim == 2 and tensor.shape[0] == call.rows * call.width:
        tensor = tensor.reshape(call.width, call.rows, tensor.shape[1])
    if tensor.ndim == 3 and tensor.shape[:2] == (call.width, call.rows):
        return tensor.transpose(0, 1).reshape(call.rows * call.width, tensor.shape[2]), 0
    raise _unfit(site, place, tensor, call)


def _leading(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if tensor.ndim == 3 and tensor.shape[0] == call.rows and tensor.shape[1] >= call.width:
        return tensor[:, : call.width].flatten(0, 1), 0
    raise _unfit(site, place, tensor, call)


def _trailing(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if tensor.ndim == 3 and tensor.shape[0] == call.rows and tensor.shape[1] >= call.width:
        return tensor[:, tensor.shape[1] - call.width :].flatten(0, 1), 0
    raise _unfit(site, place, tensor, call)


def _streams(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if tensor.ndim == 4 and tensor.shape[:3] == (call.rows, call.width, place.streams):
        return tensor.flatten(0, 1), 0
    raise _unfit(site, place, tensor, call)


def _streams_first(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if tensor.ndim == 4 and tensor.shape[:3] == (place.streams, call.rows, call.width):
        return tensor.permute(1, 2, 0, 3).flatten(0, 1), 0
    raise _unfit(site, place, tensor, call)


def _packed_streams(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if tensor.ndim == 3 and tensor.shape[:2] == (call.rows, call.width) and tensor.shape[2] % place.streams == 0:
        return tensor.reshape(call.rows * call.width, place.streams, tensor.shape[2] // place.streams), 0
    raise _unfit(site, place, tensor, call)


def _logits(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if call.logits_by_index:
        raise _unfit(site, place, tensor, call, "; not logits that an index chose")
    if tensor.ndim == 3 and tensor.shape[0] == call.rows and 0 < tensor.shape[1] <= call.width:
        return tensor.flatten(0, 1), call.width - tensor.shape[1]
    return _flat(site, place, tensor, call)


def _row(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    if call.width == 1 and tensor.ndim and tensor.shape[0] == call.rows:
        return tensor, 0
    raise _unfit(site, place, tensor, call)


def _routed(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    raise _unfit(site, place, tensor, call, ", of some of the tokens, in an order of their own")


def _unknown(site: str, place: Place, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    shape = tuple(tensor.shape)
    if len(shape) > 2 and shape[:2] == (call.rows, call.width):
        if call.width > 1 and call.width in shape[2:-1]:
            raise _unfit(site, place, tensor, call, ", and two of its axes are as long as the sequence")
        return tensor.flatten(0, 1), 0
    if len(shape) == 2 and shape[0] == call.rows and call.width == 1:
        return tensor, 0
    raise _unfit(site, place, tensor, call)


def _unfit(site: str, place: Place, tensor: Tensor, call: Call, more: str = "") -> CaptureError:
    shape = tuple(tensor.shape)
    flattened = (
        ": its rows may be the tokens of all sequences, or some of them in another order"
        if place.axes == "unknown" and len(shape) == 2 and shape[0] == call.rows * call.width
        else ""
    )
    return CaptureError(
        f"{site} has shape {shape} in a forward pass of {call.rows} rows and {call.width} columns{flattened or more}; "
        f"only tensors {_WORDS[place.axes]} can be told apart by position; {_WAY_OUT}"
    )


_READERS: dict[Axes, Callable[[str, Place, Tensor, Call], tuple[Tensor, int]]] = {
    "residual": _residual,
    "flat": _flat,
    "pos_first": _pos_first,
    "leading": _leading,
    "trailing": _trailing,
    "streams": _streams,
    "streams_first": _streams_first,
    "packed_streams": _packed_streams,
    "logits": _logits,
    "row": _row,
    "routed": _routed,
    "unknown": _unknown,
}
