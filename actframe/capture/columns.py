"""The columns that a group of sequences has computed, as a tree: beams and drafts share what came before them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NOT_KEPT", "NOT_RUN", "ROOT", "UNKNOWN", "Columns"]

ROOT = -1
"""Stands before the first column of every sequence."""
NOT_KEPT = -1
"""The cell of a column that is not selected."""
NOT_RUN = -2
"""The cell of a column that was computed before the recording began."""
UNKNOWN = -1
"""Stands for the id of a token that was given as an embedding, or is in a cache that others filled."""


class Columns:
    """Columns by number. A column is one token, computed once, after those that lead to it.

    Attributes:
        tokens: the id of each column's token, or `UNKNOWN`.
        parents: the column before each, or `ROOT`.
        slots: which slot of its row's KV cache each one fills; padding fills the slots in between.
        cells: which row of the buffers holds each one's activations, or `NOT_KEPT`, or `NOT_RUN`.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.slots: list[int] = []
        self.cells: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, tip: int, tokens: Sequence[int], slots: Sequence[int], cells: Sequence[int]) -> int:
        """Add columns that follow `tip`, one after the other; the last of them is the new tip."""
        if not tokens:
            return tip
        first = len(self.tokens)
        self.tokens.extend(tokens)
        self.parents.append(tip)
        self.parents.extend(range(first, first + len(tokens) - 1))
        self.slots.extend(slots)
        self.cells.extend(cells)
        return len(self.tokens) - 1

    def chain(self, tip: int, length: int) -> list[int]:
        """The last `length` columns that lead to `tip`, in order, itself included."""
        found = [ROOT] * length
        parents = self.parents
        for place in range(length - 1, -1, -1):
            found[place] = tip
            tip = parents[tip]
        return found

    def back(self, tip: int, steps: int) -> int:
        """The column so many steps before `tip`."""
        for _ in range(steps):
            tip = self.parents[tip]
        return tip

    def before(self, tip: int, length: int, slot: int) -> tuple[int, int]:
        """The last of `length` columns up to `tip` that lies before a slot, and how many there are up to it."""
        while length and self.slots[tip] >= slot:
            tip = self.parents[tip]
            length -= 1
        return tip, length

    def copy(self) -> Columns:
        """The same columns, which grow apart from these."""
        copied = Columns()
        copied.tokens, copied.parents = self.tokens.copy(), self.parents.copy()
        copied.slots, copied.cells = self.slots.copy(), self.cells.copy()
        return copied
