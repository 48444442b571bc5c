"""Sequences that are delivered, or read, together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from actframe.capture.columns import UNKNOWN
from actframe.capture.sequence import SequenceGroup

__all__ = ["RecordedSequence", "known_ids", "sequences_so_far"]


@dataclass(frozen=True)
class RecordedSequence:
    """One sequence, as far as it has come: where its columns are, and its unpadded tokens.

    Attributes:
        group: the group it belongs to.
        origin: which row of the group's first forward pass it comes from.
        chain: its columns, one for each position that was computed.
        input_ids, output_ids: the tokens of the prompt and of the response.
    """

    group: SequenceGroup
    origin: int
    chain: list[int]
    input_ids: list[int]
    output_ids: list[int]


def sequences_so_far(group: SequenceGroup) -> list[RecordedSequence]:
    """The rows of a group that nobody cut: a bare forward pass, or a loop that calls the model by hand."""
    sequences = []
    rows = [*group.ended, *group.rows]
    for row in sorted(rows, key=lambda each: each.origin):
        if row.committed:
            chain = row.settled(group.columns)
            tokens, prompt = group.tokens(chain), group.prompt_length(chain)
            ids = known_ids(tokens[:prompt]), known_ids(tokens[prompt:])
            sequences.append(RecordedSequence(group, row.origin, chain, *ids))
    return sequences


def known_ids(tokens: Iterable[int]) -> list[int]:
    """The tokens whose ids were seen."""
    return [token for token in tokens if token != UNKNOWN]
