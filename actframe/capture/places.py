"""Places: where a site's tensor passes by, and how it is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Axes", "Place"]

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
