"""Attention patterns of sequences that grow: each call sees more keys than the one before."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from actframe.capture.calls import Call
from actframe.errors import CaptureError

__all__ = ["PatternBuffer"]


@dataclass(frozen=True)
class _Piece:
    """Pattern rows of one call: `(n, head, key)`, the cell of the first, and the slots that the cache held then."""

    rows: Tensor
    first_cell: int
    slots: int


class PatternBuffer:
    """The kept rows of one attention site, `(head, key)` each, with as many keys as there were slots then.

    Args:
        attached: whether they stay attached to the graph that computed them, on the model's device.
    """

    def __init__(self, *, attached: bool = False) -> None:
        self._attached = attached
        self._pieces: list[_Piece] = []

    def append(self, tensor: Tensor, columns: Tensor | None, first_cell: int, call: Call) -> None:
        """Copy the kept query rows of a pattern `(batch, head, pos, key)`."""
        if tensor.ndim != 4 or (tensor.shape[0], tensor.shape[2]) != (call.rows, call.width):
            raise CaptureError(
                f"an attention pattern has shape {tuple(tensor.shape)}, not (batch, head, pos, key) "
                f"of {call.rows} rows and {call.width} positions"
            )
        rows = (tensor if self._attached else tensor.detach()).transpose(1, 2).flatten(0, 1)
        if columns is not None:
            rows = rows[columns.to(rows.device)]
        with torch.inference_mode(False):
            kept = rows.clone() if self._attached else torch.empty(rows.shape, dtype=rows.dtype).copy_(rows)
        self._pieces.append(_Piece(kept, first_cell, (call.start or 0) + call.width))

    def take(self, cells: list[int], token_slots: list[int]) -> Tensor:
        """The pattern `(head, pos, key)` of one sequence: its selected positions by all its positions.

        Columns of padding are dropped; keys that a position did not see are zero.

        Args:
            cells: of the selected positions, ascending by position.
            token_slots: the slot of the cache that each position of the sequence fills.
        """
        pattern = self._pieces[0].rows.new_zeros((self._pieces[0].rows.shape[1], len(cells), len(token_slots)))
        slots = torch.tensor(token_slots, dtype=torch.long)
        for piece in self._pieces:
            begin = bisect_left(cells, piece.first_cell)
            end = bisect_left(cells, piece.first_cell + len(piece.rows))
            if begin == end:
                continue
            # A sliding window keeps the last slots; a static cache has room for slots to come.
            first = max(0, piece.slots - piece.rows.shape[-1])
            old, new = bisect_left(token_slots, first), bisect_left(token_slots, piece.slots)
            rows = piece.rows[[cell - piece.first_cell for cell in cells[begin:end]]]
            pattern[:, begin:end, old:new] = rows[:, :, slots[old:new] - first].transpose(0, 1)
        return pattern

    def copy(self) -> PatternBuffer:
        """The same rows, which are never changed, in a buffer that grows apart from this one."""
        copied = PatternBuffer(attached=self._attached)
        copied._pieces = list(self._pieces)
        return copied
