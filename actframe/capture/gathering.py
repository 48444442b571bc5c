"""Kept rows -> the activations of sequences: selected positions, reduced and cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from actframe.capture.kept import KeptRows
from actframe.capture.selection import Selection

__all__ = ["Choice", "RowActivations", "gather"]


@dataclass(frozen=True)
class Choice:
    """What is wanted of one sequence.

    Attributes:
        positions: the selected positions, ascending.
        cells: where each of them is kept.
        token_slots: the slot of the KV cache that each position of the sequence fills, where patterns are recorded.
    """

    positions: list[int]
    cells: list[int]
    token_slots: list[int]


@dataclass(frozen=True)
class RowActivations:
    """What is kept of one sequence.

    Attributes:
        positions: the selected positions, ascending.
        tensors: site -> its rows at these positions.
        site_positions: the positions of those sites that have fewer.
    """

    positions: list[int]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    site_positions: dict[str, list[int]] = field(default_factory=dict)


def gather(kept: KeptRows, selection: Selection, choices: Sequence[Choice], *, last: bool) -> list[RowActivations]:
    """The activations of some sequences, in tensors that are nobody else's.

    Args:
        kept: where they are.
        selection: how they are reduced and cast.
        choices: which they are.
        last: whether nothing that is kept is needed afterwards.
    """
    found = [RowActivations(choice.positions) for choice in choices]
    if last and len(choices) == 1:
        given = kept.give_away(len(choices[0].cells))
        found[0].tensors.update(selection.finish_all(given))
    for site in kept.sites:
        for each, choice in zip(found, choices, strict=True):
            rows, present = kept.of(site, choice.cells)
            each.tensors[site] = selection.finish(rows, site)
            if present is not None and len(present) < len(choice.positions):
                each.site_positions[site] = [choice.positions[place] for place in present]
    for site in kept.patterns:
        for each, choice in zip(found, choices, strict=True):
            pattern = kept.pattern_of(site, choice.cells, choice.token_slots)
            each.tensors[site] = selection.finish(pattern, site, axis=1)
    return found
