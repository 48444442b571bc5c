"""One row of a batch while it grows: how far it has come, and what a forward pass adds to it."""

from __future__ import annotations

from dataclasses import dataclass

from actframe.capture.calls import Call
from actframe.capture.columns import ROOT, Columns

__all__ = ["Row", "arriving"]


@dataclass(slots=True)
class Row:
    """A sequence as far as it has been computed.

    Attributes:
        origin: which row of the first forward pass it comes from.
        tip: its last column.
        length: how many positions it has.
        committed: how many of them come from calls that have returned.
        prompt: how many of them are prompt, once the whole prompt is there.
        passes: how many calls have extended it since it was one of several copies.
    """

    origin: int
    tip: int = ROOT
    length: int = 0
    committed: int = 0
    prompt: int | None = None
    passes: int = 0

    def copy(self, *, passes: int | None = None) -> Row:
        """The same sequence, which grows apart from this one; with another number of passes, where one is given."""
        passes = self.passes if passes is None else passes
        return Row(self.origin, self.tip, self.length, self.committed, self.prompt, passes)

    def settled(self, columns: Columns) -> list[int]:
        """The columns of its committed positions."""
        return columns.chain(columns.back(self.tip, self.length - self.committed), self.committed)


def arriving(row: Row, call: Call, number: int, columns: Columns, recomputed: bool) -> list[int] | range:
    """Take from a row what the cache has forgotten, and say which columns of a call are new to it.

    Args:
        row: what is known of the sequence.
        call: starts, continues or recomputes it.
        number: which row of the call this is.
        columns: of the row's group.
        recomputed: whether positions that are known already are computed again, and not forgotten.
    """
    if not recomputed:
        row.tip, row.length = columns.before(row.tip, row.length, call.start or 0)
    row.committed = row.length
    again = row.length if recomputed else 0
    real = call.real[number] if call.real is not None else None
    if real is None:
        return range(again, call.width)
    return [column for column, is_real in enumerate(real) if is_real][again:]
