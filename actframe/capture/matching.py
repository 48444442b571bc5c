"""Which columns computed a returned sequence: those that were fed exactly its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

from actframe.capture.columns import ROOT, UNKNOWN
from actframe.capture.sequence import SequenceGroup
from actframe.errors import CaptureError

__all__ = ["Found", "Returned", "find_columns"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Returned:
    """One sequence that `generate` returned.

    Attributes:
        tokens: of the prompt, with its padding, and of the response, cut where the row ended.
        prompt_width: how many of them are prompt; 0 where the first forward pass tells.
        before: how many slots of the cache come before the first of them.
        item: which prompt of the batch it answers, of how many.
        number: which of the returned sequences it is, of how many.
        real: which columns of the prompt are tokens and not padding, as the call's attention mask says; None where it
            does not.
    """

    tokens: list[int]
    prompt_width: int
    before: int
    item: tuple[int, int]
    number: tuple[int, int]
    real: list[bool] | None = None


@dataclass(frozen=True)
class Found:
    """The columns that computed a sequence: their group, the row they come from, and themselves in order."""

    group: SequenceGroup
    origin: int
    chain: list[int]


def find_columns(returned: Returned, groups: Iterable[SequenceGroup]) -> Found:
    """Find the columns that were fed the tokens of a sequence. Its last token was never fed, or does not matter.

    Raises:
        CaptureError: there are none, or several that cannot be told apart.
    """
    matches = [match for group in groups if (match := _find_in(returned, group)) is not None]
    # A model that drafts for itself generates within generate, and may well draft the very answer.
    matches = [match for match in matches if not match.group.is_draft] or matches
    if not matches:
        raise CaptureError(
            "no recorded rows were fed the tokens that generate() returned, so the answer's activations cannot be "
            "told; this way of generating is not recorded"
        )
    return _the_one([(match.group, match.chain) for match in matches], matches)


def _the_one(places: list[tuple[SequenceGroup, list[int]]], choices: list[_T]) -> _T:
    """The first of several that were fed the same tokens, if they have the same activations, bit for bit."""
    if any(not _are_equal(places[0], other) for other in places[1:]):
        raise CaptureError(
            f"{len(places)} rows were fed the tokens that generate() returned and computed them differently, so the "
            "answer's activations cannot be told apart; this way of generating is not recorded"
        )
    return choices[0]


def _are_equal(one: tuple[SequenceGroup, list[int]], other: tuple[SequenceGroup, list[int]]) -> bool:
    (first,), (second,) = one[0].activations([one[1]]), other[0].activations([other[1]])
    return first.positions == second.positions and all(
        torch.equal(tensor, second.tensors[site]) for site, tensor in first.tensors.items()
    )


def _find_in(returned: Returned, group: SequenceGroup) -> Found | None:
    """The columns of one group that were fed these tokens."""
    if group.has_holes or not group.rows:
        return None
    prompt_end = returned.before + returned.prompt_width if returned.prompt_width else group.prompt_width
    last = max(returned.before + len(returned.tokens) - 2, prompt_end - 1)
    chains: dict[int, list[list[int]]] = {}
    for column, slot in enumerate(group.columns.slots):
        if slot == last and (chain := _fed(returned, group, column, prompt_end)):
            chains.setdefault(group.roots[chain[0]], []).append(chain)
    for origin in _origins(returned, group):
        if origin in chains:
            return Found(group, origin, _choose(_as_long(chains[origin], returned, group), group))
    return None


def _origins(returned: Returned, group: SequenceGroup) -> list[int]:
    """The rows of the first forward pass that may have computed a sequence, likeliest first."""
    (number, count), (item, items) = returned.number, returned.item
    if group.origins % items:
        return list(range(group.origins))
    each = group.origins // items
    own = list(range(item * each, (item + 1) * each))
    if group.origins == count:
        own.remove(number)
        own.insert(0, number)
    return own


def _fed(returned: Returned, group: SequenceGroup, tip: int, prompt_end: int) -> list[int] | None:
    """The columns up to `tip` if they were fed the tokens of a sequence. Padding has no columns."""
    tokens, parents, slots = group.columns.tokens, group.columns.parents, group.columns.slots
    expected, before = returned.tokens, returned.before
    chain = []
    column = tip
    while column != ROOT:
        place = slots[column] - before
        if place >= 0 and tokens[column] not in (UNKNOWN, expected[place]):
            return None
        chain.append(column)
        column = parents[column]
    chain.reverse()
    return chain if len(chain) - group.prompt_length(chain) == slots[tip] + 1 - prompt_end else None


def _as_long(chains: list[list[int]], returned: Returned, group: SequenceGroup) -> list[list[int]]:
    """Those of several chains whose padding is that of the prompt; all where none is.

    Padding has no columns, so where rows share their beginning, a shorter prompt may fit what is left of a longer one.
    """
    if len(chains) == 1 or returned.real is None:
        return chains
    real = [slot for slot, is_real in enumerate(returned.real) if is_real]
    return [chain for chain in chains if group.slots(chain[: len(real)]) == real] or chains


def _choose(chains: list[list[int]], group: SequenceGroup) -> list[int]:
    """Of several chains with the same tokens, the one that lives on in the cache; or any, where they are equal."""
    if len(chains) > 1:
        living: set[int] = set()
        for row in group.rows:
            living.update(group.columns.chain(row.tip, row.length))
        chains = [chain for chain in chains if chain[-1] in living] or chains
    return _the_one([(group, chain) for chain in chains], chains)
