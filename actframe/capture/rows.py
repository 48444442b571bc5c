"""One row of a batch while it grows: the slots of its cache, its tokens, and where their activations are kept."""

from __future__ import annotations

from actframe.capture.calls import Call

__all__ = ["NOT_KEPT", "UNKNOWN", "Row", "known_ids"]

NOT_KEPT = -1
UNKNOWN = -1
"""Stands for the id of a token that was given as an embedding."""


class Row:
    """A sequence as far as it has been computed.

    Attributes:
        tokens: the id of each position.
        cells: by position, the number of the row in the buffers that holds it, or `NOT_KEPT`.
        slots: for each slot of the cache, whether it holds a token; the others hold padding.
        committed: how many positions come from calls that have returned.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.cells: list[int] = []
        self.slots: list[bool] = []
        self.committed = 0
        self._before = [0]

    def real_before(self, slot: int) -> int:
        """How many tokens lie in the slots before this one."""
        return self._before[min(slot, len(self.slots))]

    def advance(self, call: Call, number: int, recomputed: bool) -> tuple[int, list[int]]:
        """Take in row `number` of a call.

        Args:
            call: starts, continues or recomputes the row.
            number: which row of the call this is.
            recomputed: whether positions that are known already are computed again, and not forgotten.

        Returns:
            The first new position, and the columns of the new ones in the call.
        """
        known = self.real_before(call.start)
        if not recomputed:
            del self.tokens[known:], self.cells[known:]
        del self.slots[call.start :], self._before[call.start + 1 :]
        real = call.real[number] if call.real is not None else [True] * call.width
        for is_real in real:
            self.slots.append(is_real)
            self._before.append(self._before[-1] + is_real)
        first = self.committed = len(self.tokens)
        columns = [column for column, is_real in enumerate(real) if is_real][first - known :]
        if call.ids is None:
            self.tokens.extend([UNKNOWN] * len(columns))
        else:
            ids = call.ids[number]
            self.tokens.extend(ids[column] for column in columns)
        return first, columns


def known_ids(tokens: list[int]) -> list[int]:
    """The tokens whose ids were seen."""
    return [token for token in tokens if token != UNKNOWN]
