"""Sequences of one group that are delivered, or read, together."""

from __future__ import annotations

from dataclasses import dataclass

from actframe.capture.rows import known_ids
from actframe.capture.sequence import SequenceGroup

__all__ = ["Batch", "RecordedSequence", "batch_so_far"]


@dataclass(frozen=True)
class RecordedSequence:
    """One sequence, as far as it has come: which row it is of its group, its unpadded tokens, how long it is.

    Attributes:
        row: number of the row.
        input_ids, output_ids: the tokens of the prompt and of the response.
        length: how many positions have activations.
    """

    row: int
    input_ids: list[int]
    output_ids: list[int]
    length: int


@dataclass(frozen=True)
class Batch:
    """Sequences of one group.

    Attributes:
        group: where their activations are.
        sequences: in row order.
    """

    group: SequenceGroup
    sequences: list[RecordedSequence]


def batch_so_far(group: SequenceGroup) -> Batch:
    """The rows of a group that nobody cut: a bare forward pass, or a loop that calls the model by hand."""
    sequences = []
    for number, row in enumerate(group.rows):
        if row.committed:
            tokens, prompt = row.tokens[: row.committed], group.prompt_length(row)
            ids = known_ids(tokens[:prompt]), known_ids(tokens[prompt:])
            sequences.append(RecordedSequence(number, *ids, row.committed))
    return Batch(group, sequences)
