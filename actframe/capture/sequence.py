"""Forward passes -> whole sequences: steps of generate(), padding, recomputed prefixes, rejected drafts.

Sequences that are computed together and share a KV cache are a `SequenceGroup`. It mirrors the slots of that cache: a
slot holds a token or padding, and a token's position is the number of tokens before it in its row. So a position is
never taken from the order of calls, and what the cache forgets (rejected drafts) the group forgets too.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actframe.capture.axes import to_rows
from actframe.capture.calls import Call, cache_address
from actframe.capture.layout import Place
from actframe.capture.patterns import PatternBuffer
from actframe.capture.rows import NOT_KEPT, Row
from actframe.capture.selection import Scratch, Selection, SiteBuffer
from actframe.errors import CaptureError

__all__ = ["RowActivations", "SequenceGroup"]


@dataclass(frozen=True)
class RowActivations:
    """What is kept of one row.

    Attributes:
        row: whose it is.
        positions: the selected positions, ascending.
        cells: where each of them is in the buffers.
        tensors: site -> its rows at these positions.
        site_positions: the positions of those sites that have fewer.
    """

    row: Row
    positions: list[int]
    cells: list[int]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    site_positions: dict[str, list[int]] = field(default_factory=dict)


class SequenceGroup:
    """Rows that were computed together, as far as they have been computed.

    Every kept column of every call gets the next number in the group, its cell; the buffers hold cell n as row n.

    Attributes:
        number: groups count in the order in which they began.
        rows: one for each sequence.
        prompt_width: how many slots of the cache are prompt, padding included.
        encoder: the group of the encoder's rows that this decoder group attends to, or None.
        delivered: whether these sequences were delivered as they are now.
        circumstances: how the model computed when the group began.
    """

    def __init__(self, number: int, selection: Selection, scratch: Scratch, circumstances: dict[str, Any]) -> None:
        self.number = number
        self.circumstances = circumstances
        self.rows: list[Row] = []
        self.prompt_width = 0
        self.encoder: SequenceGroup | None = None
        self.delivered = False
        self._selection = selection
        self._count = 0
        self._columns: Tensor | None = None
        self._kept = 0
        self._cache: Any = None
        self._address: int | None = None
        self._scratch = scratch
        self._used: dict[str, SiteBuffer] = {}
        self._partial: dict[str, dict[int, int]] = {}
        self._patterns: dict[str, PatternBuffer] = {}

    def owns(self, cache: Any) -> bool:
        """Whether this is the cache that the group's last call filled."""
        return cache is not None and self._cache is not None and self._cache() is cache

    def is_over(self) -> bool:
        """Whether no later call can continue these sequences: they have no cache, or it is gone."""
        return self._cache is None or self._cache() is None

    def recomputes(self, call: Call) -> bool:
        """Whether a call without a cache computes these very sequences again from the start, and goes on."""
        if self._cache is not None or call.cache is not None or call.ids is None or call.rows != len(self.rows):
            return False
        for number, (row, ids) in enumerate(zip(self.rows, call.ids, strict=True)):
            real = call.real[number] if call.real is not None else None
            given = ids if real is None else [token for token, is_real in zip(ids, real, strict=True) if is_real]
            if given[: len(row.tokens)] != row.tokens:
                return False
        return True

    def extend(self, call: Call, prompt_width: int | None) -> None:
        """Take in what a call computes, before its tensors come.

        Args:
            call: one that starts these sequences, continues their cache, or recomputes them.
            prompt_width: how many slots are prompt, where `generate` tells; else the first call is the prompt.

        Raises:
            CaptureError: the call does not fit what is known of its cache.
        """
        if not self.rows:
            self.rows = [Row() for _ in range(call.rows)]
            self.prompt_width = call.width
        filled = len(self.rows[0].slots)
        self._check_cache(call, filled)
        if prompt_width is not None:
            self.prompt_width = prompt_width
        elif call.start < filled and self._cache is not None:
            self.prompt_width = min(self.prompt_width, call.start)
        self.delivered = False
        recomputed = self._cache is None
        fresh = [row.advance(call, number, recomputed) for number, row in enumerate(self.rows)]
        self._check_prompts(call, prompt_width)
        self._plan(call, fresh)

    def commit(self, cache: Any) -> None:
        """The call that `extend` took in last has returned, and this cache will continue it."""
        for row in self.rows:
            row.committed = len(row.tokens)
        try:
            self._cache = weakref.ref(cache) if cache is not None else None
        except TypeError:  # a tuple of a model's own; a call that passes it is refused
            self._cache = None
        self._address = cache_address(cache)

    def prompt_length(self, row: Row) -> int:
        """How many positions of a row are prompt."""
        return row.real_before(self.prompt_width)

    def take(self, site: str, place: Place, tensor: Tensor, call: Call) -> None:
        """Keep what is selected of one tensor of the call that `extend` took in last."""
        first_cell = self._count - self._kept
        if place.axes == "pattern":
            self._patterns.setdefault(site, PatternBuffer()).append(tensor, self._columns, first_cell, call)
            return
        flat, offset = to_rows(site, place, tensor, call)
        buffer = self._used.get(site)
        if buffer is None:
            buffer = self._used[site] = SiteBuffer(self._scratch)
        if offset or site in self._partial or buffer.length != first_cell:
            flat = self._take_partly(site, buffer, flat, offset, call)
        elif self._columns is not None:
            flat = flat[self._columns.to(flat.device)]
        try:
            buffer.append(flat)
        except ValueError as error:
            raise CaptureError(f"{site} changed its shape or dtype in mid-sequence: {error}") from None

    def activations(self, lengths: dict[int, int]) -> list[RowActivations]:
        """The selected activations of some rows, in new tensors.

        Args:
            lengths: row number -> how many positions its sequence has.

        Raises:
            CaptureError: a selected position was not kept.
        """
        found = [self._choose(self.rows[number], length) for number, length in lengths.items()]
        for site, buffer in list(self._used.items()):
            partial = self._partial.get(site)
            for each in found:
                cells, positions = each.cells, each.positions
                if partial is not None:
                    present = [place for place, cell in enumerate(cells) if cell in partial]
                    cells = [partial[cells[place]] for place in present]
                    positions = [positions[place] for place in present]
                each.tensors[site] = self._selection.finish(buffer.take(cells), site)
                if positions != each.positions:
                    each.site_positions[site] = positions
        for site, pattern in list(self._patterns.items()):
            for each, length in zip(found, lengths.values(), strict=True):
                rows = pattern.take(each.cells, each.row.slots, length)
                each.tensors[site] = self._selection.finish(rows, site, axis=1)
        return found

    def _choose(self, row: Row, length: int) -> RowActivations:
        positions = self._selection.choose(length, self.prompt_length(row))
        cells = [row.cells[position] for position in positions]
        if NOT_KEPT in cells:
            lost = positions[cells.index(NOT_KEPT)]
            raise CaptureError(f"position {lost} was not kept, because the cache was cropped to it afterwards")
        return RowActivations(row, positions, cells)

    def release(self) -> Scratch:
        """Forget everything, and give the memory to the sequences that come next, once: they may have it already."""
        self._used, self._patterns = {}, {}
        scratch, self._scratch = self._scratch, Scratch()
        scratch.reset()
        return scratch

    def _check_cache(self, call: Call, filled: int) -> None:
        if call.rows != len(self.rows):
            raise CaptureError(
                f"a forward pass of {call.rows} rows continues a KV cache that was filled with {len(self.rows)}; rows "
                "dropped or repeated in mid-sequence cannot be told apart. Record them with a cache of their own"
            )
        if call.start > filled:
            raise CaptureError(
                f"this KV cache holds {call.start} positions, of which only {filled} were recorded; "
                "begin the recording before the first of them is computed"
            )
        if call.start and call.start == filled and self._address not in (None, cache_address(call.cache)):
            raise CaptureError(
                "the rows of this KV cache were reordered, selected or repeated since its last forward pass, so they "
                "cannot be told apart; hand-written beam search is not recorded"
            )

    def _check_prompts(self, call: Call, prompt_width: int | None) -> None:
        # A chunk of a padded prompt may be all padding; a whole prompt may not.
        whole = call.cache is None if prompt_width is None else len(self.rows[0].slots) >= prompt_width
        empty = [number for number, row in enumerate(self.rows) if not row.tokens]
        if whole and empty:
            raise CaptureError(f"row {empty[0]} of the batch holds nothing but padding; leave empty prompts out")

    def _plan(self, call: Call, fresh: list[tuple[int, list[int]]]) -> None:
        """Number the columns that are kept, in the order in which the buffers will receive them."""
        kept: list[int] = []
        for number, (row, (first, columns)) in enumerate(zip(self.rows, fresh, strict=True)):
            cells = [NOT_KEPT] * len(columns)
            for position in self._selection.may_keep(first, first + len(columns), self.prompt_length(row)):
                cells[position - first] = self._count + len(kept)
                kept.append(number * call.width + columns[position - first])
            row.cells.extend(cells)
        self._kept = len(kept)
        self._count += len(kept)
        self._columns = torch.tensor(kept, dtype=torch.long) if len(kept) < call.rows * call.width else None

    def _take_partly(self, site: str, buffer: SiteBuffer, flat: Tensor, offset: int, call: Call) -> Tensor:
        """Keep those of the kept columns that a site has: logits may be computed for the last columns only."""
        cells = self._partial.setdefault(site, {cell: cell for cell in range(buffer.length)})
        columns = range(call.rows * call.width) if self._columns is None else self._columns.tolist()
        chosen: list[int] = []
        for cell, column in enumerate(columns, start=self._count - self._kept):
            number, place = divmod(column, call.width)
            if place >= offset:
                cells[cell] = buffer.length + len(chosen)
                chosen.append(number * (call.width - offset) + place - offset)
        return flat[torch.tensor(chosen, dtype=torch.long, device=flat.device)]
