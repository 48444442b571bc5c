"""Which prompts are computed together: of like length, and so many that memory suffices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["batch_tokens", "plan_batches"]

WINDOW_BATCHES = 16
"""Batches are sorted by length within this many of them: padding stays small, and answers come nearly in order."""


class BatchSizes(Protocol):
    """As in `GenerationSettings`."""

    @property
    def max_new_tokens(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def batch_tokens(self) -> int: ...


def plan_batches(lengths: Sequence[int], sizes: BatchSizes) -> list[list[int]]:
    """The rows of each batch: sorted by length within a window, the longest first.

    Args:
        lengths: of each prompt, in tokens.
        sizes: how large batches become.
    """
    window = sizes.batch_size * WINDOW_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(lengths), window):
        rows = sorted(range(start, min(start + window, len(lengths))), key=lambda row: -lengths[row])
        while rows:
            # The first is the longest.
            fitting = sizes.batch_tokens // batch_tokens([lengths[rows[0]]], sizes)
            count = max(1, min(sizes.batch_size, fitting))
            batches.append(rows[:count])
            rows = rows[count:]
    return batches


def batch_tokens(lengths: Sequence[int], sizes: BatchSizes) -> int:
    """How many tokens prompts of these lengths are in one batch, with padding, and with all the new ones.

    The same for models whose prompt goes to an encoder and whose response comes from a decoder: both are computed.
    """
    return len(lengths) * (max(lengths) + sizes.max_new_tokens)
