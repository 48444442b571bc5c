"""What is kept of each site for a group of sequences: rows in buffers, found again by their cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from actframe.capture.axes import to_rows
from actframe.capture.calls import Call
from actframe.capture.parts import Place
from actframe.capture.patterns import PatternBuffer
from actframe.capture.selection import Scratch, SiteBuffer
from actframe.errors import CaptureError

__all__ = ["Arrivals", "KeptRows", "kept_there", "rows_there"]


@dataclass(frozen=True)
class Arrivals:
    """Which columns of one call are kept, and under which cells.

    Attributes:
        first_cell: the cell of the first; the others follow.
        count: how many there are.
        columns: their numbers among the call's `rows * width`, ascending by cell; None for all of them.
        is_whole_first: whether no call came before, not even one of which nothing is kept, and nothing is left out.
    """

    first_cell: int
    count: int
    columns: Tensor | None
    is_whole_first: bool = False


class KeptRows:
    """The kept rows of every site. Cell n is row n of a site's buffer, unless the site has not run for every column.

    What a small first call brings, whole, is held as it is: most forward passes of small inputs have no second one, and
    then there is nothing to gather.

    Args:
        scratch: memory to keep them in.
    """

    SMALL_BYTES = 1 << 16
    """What a tensor held as it is may take, lest it come between the model and the memory that the model reuses."""

    is_of_training: ClassVar[bool] = False
    """Whether they need a graph."""
    _attached = False
    """Whether rows stay attached to the graph that computed them, on the model's device."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._whole: dict[str, Tensor] = {}
        self._shape: torch.Size | None = None
        self._buffers: dict[str, SiteBuffer] = {}
        self._partial: dict[str, dict[int, int]] = {}
        self._patterns: dict[str, PatternBuffer] = {}

    @property
    def sites(self) -> list[str]:
        """The sites whose cells are rows."""
        return [*self._whole, *self._buffers]

    @property
    def patterns(self) -> list[str]:
        """The sites whose cells are rows of an attention pattern."""
        return list(self._patterns)

    def take(self, site: str, place: Place, tensor: Tensor, call: Call, arrivals: Arrivals) -> None:
        """Copy what is kept of one tensor of a call."""
        plain = arrivals.is_whole_first and not self._attached and place.axes == "residual" and tensor.is_cpu
        if plain and (tensor.shape == self._shape or self._may_hold(tensor, call)):
            self._whole[site] = tensor.detach().reshape(-1, tensor.shape[2]).clone()
            return
        if self._whole and not arrivals.is_whole_first:
            self._gather()
        if place.axes == "pattern":
            pattern = self._patterns.get(site)
            if pattern is None:
                pattern = self._patterns[site] = PatternBuffer(attached=self._attached)
            pattern.append(tensor, arrivals.columns, arrivals.first_cell, call)
            return
        flat, there = rows_there(site, place, tensor, call, attached=self._attached)
        self._keep(site, flat, there, call, arrivals)

    def of(self, site: str, cells: list[int]) -> tuple[Tensor, list[int] | None]:
        """The rows of some cells, ascending, in a new tensor, and which of the cells these are; None for all."""
        if (whole := self._whole.get(site)) is not None:
            return whole[cells], None
        partial = self._partial.get(site)
        if partial is None:
            return self._buffers[site].take(cells), None
        present = [place for place, cell in enumerate(cells) if cell in partial]
        return self._buffers[site].take([partial[cells[place]] for place in present]), present

    def give_away(self, count: int) -> dict[str, Tensor]:
        """The rows that are held as they came, and no more, if they are of one sequence and of `count` cells."""
        if not self._whole or self._shape is None or self._shape[:2] != (1, count):
            return {}
        if next(iter(self._whole.values())).is_inference():
            return {}
        whole, self._whole = self._whole, {}
        return whole

    def pattern_of(self, site: str, cells: list[int], token_slots: list[int]) -> Tensor:
        """The attention pattern `(head, cells, key)` of one sequence, whose tokens fill these slots of the cache."""
        return self._patterns[site].take(cells, token_slots)

    def copy(self, scratch: Scratch) -> KeptRows:
        """The same rows in memory of their own."""
        self._gather()
        copied = self._new(scratch)
        copied._buffers = {site: buffer.copy(scratch) for site, buffer in self._buffers.items()}
        copied._partial = {site: dict(cells) for site, cells in self._partial.items()}
        copied._patterns = {site: pattern.copy() for site, pattern in self._patterns.items()}
        return copied

    def waits(self) -> bool:
        """Whether something is still to come, though the forward pass is over."""
        return False

    def check_complete(self) -> None:
        """Raise a `CaptureError` where something has not come that should have."""

    def release(self) -> Scratch:
        """Forget everything, and give the memory away, once: somebody else may have it already."""
        self._whole, self._buffers, self._partial, self._patterns = {}, {}, {}, {}
        scratch, self._scratch = self._scratch, Scratch()
        scratch.reset()
        return scratch

    def _new(self, scratch: Scratch) -> KeptRows:
        return KeptRows(scratch)

    def _new_buffer(self) -> SiteBuffer:
        return SiteBuffer(self._scratch)

    def _may_hold(self, tensor: Tensor, call: Call) -> bool:
        """Whether a tensor is `(batch, pos, d)` of its call, and small; its shape is then known for the next ones."""
        if tensor.ndim != 3 or tensor.shape[:2] != (call.rows, call.width) or tensor.nbytes > self.SMALL_BYTES:
            return False
        self._shape = tensor.shape
        return True

    def _gather(self) -> None:
        """Put what is held as it is into buffers, which can grow."""
        for site, whole in self._whole.items():
            self._buffers[site] = SiteBuffer(self._scratch, whole)
        self._whole = {}

    def _keep(self, site: str, flat: Tensor, there: Sequence[int] | None, call: Call, arrivals: Arrivals) -> None:
        buffer = self._buffers.get(site)
        if buffer is None:
            buffer = self._buffers[site] = self._new_buffer()
        if there is not None or site in self._partial or buffer.length != arrivals.first_cell:
            flat = self._those_there(site, flat, there, call, arrivals)
        elif arrivals.columns is not None:
            flat = flat[arrivals.columns.to(flat.device)]
        try:
            buffer.append(flat)
        except ValueError as error:
            raise CaptureError(f"{site} changed its shape or dtype in mid-sequence: {error}") from None

    def _those_there(
        self, site: str, flat: Tensor, there: Sequence[int] | None, call: Call, arrivals: Arrivals
    ) -> Tensor:
        """Keep those of the kept columns that a site has: logits may be computed for the last columns only."""
        length = self._buffers[site].length
        cells = self._partial.setdefault(site, {cell: cell for cell in range(length)})
        chosen = kept_there(there, call, arrivals)
        cells.update(zip(chosen, range(length, length + len(chosen)), strict=True))
        return flat[torch.tensor(list(chosen.values()), dtype=torch.long, device=flat.device)]


def rows_there(
    site: str, place: Place, tensor: Tensor, call: Call, *, attached: bool = False
) -> tuple[Tensor, Sequence[int] | None]:
    """A site's tensor as `(columns, ...)`, and which columns of the call these are; None for all of them."""
    if place.axes == "logits" and call.logits_columns is not None:
        there = call.logits_columns
        return (tensor if attached else tensor.detach()).flatten(0, 1)[: len(there)], there
    flat, offset = to_rows(site, place, tensor, call, attached=attached)
    if offset:
        return flat, [column for column in range(call.rows * call.width) if column % call.width >= offset]
    return flat, None


def kept_there(there: Sequence[int] | None, call: Call, arrivals: Arrivals) -> dict[int, int]:
    """By cell, which row of a tensor is kept that has these columns of a call."""
    everything = range(call.rows * call.width)
    places = {column: place for place, column in enumerate(everything if there is None else there)}
    columns = everything if arrivals.columns is None else arrivals.columns.tolist()
    numbered = enumerate(columns, start=arrivals.first_cell)
    return {cell: places[column] for cell, column in numbered if column in places}
