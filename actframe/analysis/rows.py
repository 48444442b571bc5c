"""Which row of a recorded site belongs to which position: what every analysis asks of a record first.

A record here is an `ActivationRecord` or the dictionary that `load_activations` returns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actframe.capture.sites import expand, summarise
from actframe.errors import SelectionError, SiteError, nearest

__all__ = ["ATTENTION_SINK", "Record", "SiteRows", "as_rows", "describe", "read_rows", "sites_of"]

Record = Mapping[str, Any]

ATTENTION_SINK = 0
"""The position whose residual stream many models blow up by two orders of magnitude, whatever the token.

Sun et al. 2024, "Massive Activations in Large Language Models". An average that includes it describes it alone.
"""


@dataclass(frozen=True)
class SiteRows:
    """One site of one record, read once.

    Attributes:
        record: whose site it is.
        site: the site's name.
        tensor: `(pos, d_model)` for most sites.
        positions: the absolute position of each row; None where rows were reduced or the file does not say.
    """

    record: Record
    site: str
    tensor: Tensor
    positions: list[int] | None

    def vector_at(self, position: str | int) -> Tensor:
        """The vector at a position, `(d_model,)` in float64.

        Args:
            position: `"last_prompt"` (from where the first token of the response is predicted), `"last"`, `"mean"`
                (over all rows but the attention sink at position 0), or an absolute position.

        Raises:
            SelectionError: there is no row of that position.
        """
        if not len(self.tensor):
            raise SelectionError(f"{self.site} of {describe(self.record)} has no rows at all")
        if position == "mean":
            return self.without_sink().mean(dim=0)
        if position == "last":
            return self.tensor[-1].to(torch.float64)
        wanted = self._absolute(position)
        if self.positions is None or wanted not in self.positions:
            held = "rows that were reduced or carry no positions" if self.positions is None else _span(self.positions)
            raise SelectionError(
                f"{self.site} of {describe(self.record)} has no row for position {position!r}; it holds {held}"
            )
        return self.tensor[self.positions.index(wanted)].to(torch.float64)

    def without_sink(self) -> Tensor:
        """The rows in float64, but for the one of position 0 where there are others."""
        keep = [row for row, position in enumerate(self.positions or []) if position != ATTENTION_SINK]
        return (self.tensor[keep] if keep else self.tensor).to(torch.float64)

    def _absolute(self, position: str | int) -> int:
        if isinstance(position, int):
            return position
        if position != "last_prompt":
            raise SelectionError(f"no position {position!r}; there are 'last_prompt', 'last', 'mean' and whole numbers")
        if "prompt_length" not in self.record:
            raise SelectionError(
                f"the record of {describe(self.record)} does not say where its prompt ends; use 'last'"
            )
        return int(self.record["prompt_length"]) - 1


def read_rows(record: Record, site: str) -> SiteRows:
    """Read one site, with the positions of its rows."""
    tensor = record["activations"][site]
    positions = record.get("site_positions", {}).get(site, record.get("positions"))
    known = positions is not None and tensor.dim() >= 2 and len(positions) == tensor.shape[-2]
    return SiteRows(record, site, tensor, list(positions) if known else None)


def sites_of(record: Record, sites: Iterable[str] | None = None) -> list[str]:
    """The record's sites, or those that match the names and patterns in `sites`, in the record's order.

    Raises:
        SiteError: a name or pattern that matches nothing.
    """
    present = list(record["activations"])
    if sites is None:
        return present
    chosen: set[str] = set()
    for pattern in sites:
        try:
            chosen.update(expand(pattern, present))
        except SiteError:
            raise SiteError(
                f"no site {pattern!r}{nearest(pattern, present)} in the record of {describe(record)}; "
                f"it has {summarise(present)}"
            ) from None
    return [site for site in present if site in chosen]


def describe(record: Record) -> str:
    """How messages call a record: its model and the beginning of its prompt."""
    prompt = " ".join(str(record.get("prompt") or "no prompt").split())
    shown = prompt if len(prompt) <= 40 else f"{prompt[:39]}…"
    return f"'{record.get('model', 'unknown model')}: {shown}'"


def as_rows(tensor: Tensor) -> Tensor:
    """A site's tensor as `(rows, last axis)`: `(head, pos, key)` becomes `(head * pos, key)`."""
    width = tensor.shape[-1] if tensor.dim() else 1
    return tensor.reshape(math.prod(tensor.shape[:-1]), width)


def _span(positions: list[int]) -> str:
    if len(positions) > 2 and positions == list(range(positions[0], positions[-1] + 1)):
        return f"positions {positions[0]} to {positions[-1]}"
    shown = ", ".join(map(str, positions[:12]))
    return f"positions {shown}{', ...' if len(positions) > 12 else ''}"
