"""Forward passes -> whole sequences: steps of generate(), padding, recomputed prefixes, rejected drafts.

Sequences that are computed together and share a KV cache are a `SequenceGroup`. It mirrors the slots of that cache: a
slot holds a token or padding, and a token's position is the number of tokens before it in its row. So a position is
never taken from the order of calls, and what the cache forgets (rejected drafts) the group forgets too.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from actframe.capture.calls import Call
from actframe.capture.layout import Place
from actframe.capture.patterns import PatternBuffer
from actframe.capture.selection import Selection, SiteBuffer
from actframe.errors import CaptureError

__all__ = ["UNKNOWN", "SequenceGroup", "known_ids"]

NOT_KEPT = -1
UNKNOWN = -1
"""Stands for the id of a token that was given as an embedding."""


class SequenceGroup:
    """Rows that were computed together, as far as they have been computed.

    Every kept column of every call gets the next number in the group, its cell; the buffers hold cell n as row n.

    Attributes:
        tokens: by row, the id of each position.
        prompt_lengths: by row, how many positions are prompt.
        encoder: the group of the encoder's rows that this decoder group attends to, or None.
    """

    def __init__(self, selection: Selection, buffers: dict[str, SiteBuffer]) -> None:
        self.tokens: list[list[int]] = []
        self.prompt_lengths: list[int] = []
        self.encoder: SequenceGroup | None = None
        self._selection = selection
        self._slots: list[list[bool]] = []
        self._cells: list[list[int]] = []
        self._count = 0
        self._columns: Tensor | None = None
        self._kept = 0
        self._sizes: list[int] = []
        self._cache: Any = None
        self._buffers = buffers
        self._used: dict[str, SiteBuffer] = {}
        self._partial: dict[str, dict[int, int]] = {}
        self._patterns: dict[str, PatternBuffer] = {}

    @property
    def rows(self) -> int:
        return len(self.tokens)

    @property
    def slots(self) -> list[list[bool]]:
        """By row, for each slot of the cache, whether it holds a token."""
        return self._slots

    def sites(self) -> set[str]:
        """The sites that have been taken."""
        return self._used.keys() | self._patterns.keys()

    def remember_cache(self, cache: Any) -> None:
        """Know the group again by the cache that its next call will pass."""
        self._cache = weakref.ref(cache) if cache is not None else None

    def owns(self, cache: Any) -> bool:
        return cache is not None and self._cache is not None and self._cache() is cache

    def is_over(self) -> bool:
        """Whether no later call can continue these sequences: they have no cache, or it is gone."""
        return self._cache is None or self._cache() is None

    def recomputes(self, call: Call) -> bool:
        """Whether a call without a cache computes these very sequences again from the start, and goes on."""
        if self._cache is not None or call.ids is None or call.rows != self.rows:
            return False
        for row, (tokens, ids) in enumerate(zip(self.tokens, call.ids, strict=True)):
            given = [token for token, real in zip(ids, call.is_real(row), strict=True) if real]
            if len(given) < len(tokens) or given[: len(tokens)] != tokens:
                return False
        return True

    def extend(self, call: Call, prompt_lengths: list[int] | None) -> None:
        """Take in what a call computes, before its tensors come.

        Args:
            call: one that starts these sequences, continues their cache, or recomputes them.
            prompt_lengths: by row, where `generate` tells; else the first call is the prompt.
        """
        if not self.tokens:
            self.tokens = [[] for _ in range(call.rows)]
            self._slots = [[] for _ in range(call.rows)]
            self._cells = [[] for _ in range(call.rows)]
        if call.rows != self.rows:
            raise CaptureError(
                f"a forward pass of {call.rows} rows continues a KV cache that was filled with {self.rows}; rows that "
                "are dropped or repeated in mid-sequence cannot be told apart. Record them with a cache of their own"
            )
        if call.start > len(self._slots[0]):
            raise CaptureError(
                f"this KV cache holds {call.start} positions, of which only {len(self._slots[0])} were recorded; "
                "begin the recording before the first of them is computed"
            )
        fresh = [self._advance(row, call) for row in range(call.rows)]
        if prompt_lengths is not None:
            self.prompt_lengths = prompt_lengths
        elif not self.prompt_lengths:
            self.prompt_lengths = [len(tokens) for tokens in self.tokens]
        if 0 in self.prompt_lengths:
            raise CaptureError(
                f"row {self.prompt_lengths.index(0)} of the batch holds nothing but padding; leave empty prompts out"
            )
        self._plan(call, fresh)

    def _advance(self, row: int, call: Call) -> tuple[int, list[int]]:
        """Bring one row's slots and tokens up to date; its first new position, and the columns of the new ones."""
        slots, tokens, cells = self._slots[row], self.tokens[row], self._cells[row]
        known = sum(slots[: call.start])
        if self._cache is not None:
            del tokens[known:], cells[known:]
        del slots[call.start :]
        if call.real is None:
            slots.extend([True] * call.width)
            columns = list(range(call.width))
        else:
            slots.extend(call.real[row])
            columns = [column for column, real in enumerate(call.real[row]) if real]
        first = len(tokens)
        columns = columns[first - known :]
        tokens.extend([UNKNOWN] * len(columns) if call.ids is None else [call.ids[row][column] for column in columns])
        return first, columns

    def _plan(self, call: Call, fresh: list[tuple[int, list[int]]]) -> None:
        """Number the columns that are kept, in the order in which the buffers will receive them."""
        kept: list[int] = []
        sizes: list[int] = []
        for row, (first, columns) in enumerate(fresh):
            cells = [NOT_KEPT] * len(columns)
            may_keep = self._selection.may_keep(first, first + len(columns), self.prompt_lengths[row])
            for position in may_keep:
                cells[position - first] = self._count + len(kept)
                kept.append(row * call.width + columns[position - first])
            self._cells[row].extend(cells)
            sizes.append(len(kept) - sum(sizes))
        self._sizes = sizes
        self._count += len(kept)
        self._kept = len(kept)
        self._columns = torch.tensor(kept, dtype=torch.long) if len(kept) < call.rows * call.width else None

    def take(self, site: str, place: Place, tensor: Tensor, call: Call) -> None:
        """Keep what is selected of one tensor of the call that `extend` took in last."""
        first_cell = self._count - self._kept
        if place.axes == "pattern":
            self._patterns.setdefault(site, PatternBuffer()).append(tensor, self._columns, first_cell, call)
            return
        flat, offset = flatten(site, tensor, call)
        buffer = self._used.get(site)
        if buffer is None:
            buffer = self._used[site] = self._buffers.setdefault(site, SiteBuffer())
        if offset or site in self._partial or buffer.length != first_cell:
            flat = self._take_partly(site, buffer, flat, offset, call)
        elif self._columns is not None:
            flat = flat[self._columns.to(flat.device)]
        if first_cell == 0 and not offset:
            buffer.begin(flat, self._sizes)
            return
        try:
            buffer.append(flat)
        except ValueError as error:
            raise CaptureError(f"{site} changed its shape or dtype in mid-sequence: {error}") from None

    def _take_partly(self, site: str, buffer: SiteBuffer, flat: Tensor, offset: int, call: Call) -> Tensor:
        """Keep those of the kept columns that a site has: logits may be computed for the last columns only."""
        cells = self._partial.setdefault(site, {cell: cell for cell in range(buffer.length)})
        columns = range(call.rows * call.width) if self._columns is None else self._columns.tolist()
        chosen: list[int] = []
        for number, column in enumerate(columns):
            row, place = divmod(column, call.width)
            if place >= offset:
                cells[self._count - self._kept + number] = buffer.length + len(chosen)
                chosen.append(row * (call.width - offset) + place - offset)
        return flat[torch.tensor(chosen, dtype=torch.long, device=flat.device)]

    def activations(self, row: int, length: int) -> tuple[dict[str, Tensor], list[int], dict[str, list[int]]]:
        """The selected activations of one row, cut at `length` positions.

        Returns:
            Site -> tensor; the selected positions; and, for sites that have fewer of them, theirs.
        """
        positions = self._selection.choose(length, self.prompt_lengths[row])
        row_cells = self._cells[row]
        cells = [row_cells[position] for position in positions]
        tensors: dict[str, Tensor] = {}
        exceptions: dict[str, list[int]] = {}
        for site, buffer in self._used.items():
            partial = self._partial.get(site)
            if partial is None:
                rows = buffer.take(cells)
            else:
                present = [position for position in positions if row_cells[position] in partial]
                rows = buffer.take([partial[row_cells[position]] for position in present])
                if present != positions:
                    exceptions[site] = present
            tensors[site] = self._selection.finish(rows, site)
        for site, pattern in self._patterns.items():
            tensors[site] = self._selection.finish(pattern.take(cells, self._slots[row], length), site, axis=1)
        return tensors, positions, exceptions

    def release(self) -> dict[str, SiteBuffer]:
        """Empty the buffers and give them to the sequences that come next; this group holds nothing any more."""
        buffers, self._buffers = self._buffers, {}
        for buffer in buffers.values():
            buffer.clear()
        self._used, self._patterns = {}, {}
        return buffers


def known_ids(tokens: list[int]) -> list[int]:
    """The tokens whose ids were seen."""
    return [token for token in tokens if token != UNKNOWN]


def flatten(site: str, tensor: Tensor, call: Call) -> tuple[Tensor, int]:
    """A tensor as `(rows * columns, ...)`, and the first column it has.

    Raises:
        CaptureError: its axes are not the call's rows and columns.
    """
    tensor = tensor.detach()
    shape = tuple(tensor.shape)
    cells = call.rows * call.width
    if shape[:2] == (call.rows, call.width) and len(shape) > 2:
        return tensor.reshape(cells, *shape[2:]), 0
    if len(shape) == 2 and shape[0] == cells:
        return tensor, 0
    if len(shape) > 2 and shape[0] == call.rows and shape[1] < call.width and site.endswith("logits"):
        return tensor.reshape(call.rows * shape[1], *shape[2:]), call.width - shape[1]
    raise CaptureError(
        f"{site} has shape {shape} in a forward pass of {call.rows} rows and {call.width} columns; only tensors "
        "(batch, pos, ...) can be told apart by position"
    )
