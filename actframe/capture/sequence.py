"""Forward passes -> whole sequences: steps of generate(), padding, beams, recomputed prefixes, rejected drafts.

Sequences that are computed together and share a KV cache are a `SequenceGroup`. It mirrors that cache: each of its rows
ends in a column, whose slot of the cache is known, and the columns before it lead to it. So a position is never taken
from the order of calls, what the cache forgets (rejected drafts) the group forgets too, and a row that moves takes
with it all that led to it.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actframe.capture.calls import Call, cache_address, tokens_before
from actframe.capture.columns import NOT_KEPT, NOT_RUN, ROOT, UNKNOWN, Columns
from actframe.capture.gathering import Choice, RowActivations, gather
from actframe.capture.kept import Arrivals, KeptRows
from actframe.capture.parts import Place
from actframe.capture.rows import Row, arriving
from actframe.capture.selection import Scratch, Selection
from actframe.errors import CaptureError

__all__ = ["SequenceGroup"]


class SequenceGroup:
    """Rows that were computed together, as far as they have been computed.

    Attributes:
        number: groups count in the order in which they began.
        circumstances: how the model computed when the group began.
        kept: what is kept of each site.
        columns: every column that was computed.
        roots: the first column of each sequence -> which row of the first forward pass it is of.
        rows: one for each row of the KV cache, in its order.
        ended: rows that left the cache because their sequences had ended.
        origins: how many rows the first forward pass had.
        batch_size: how many rows there were at most.
        filled: how many slots of the cache are filled.
        prompt_width: how many of them are prompt, padding included.
        prompts: how many positions of each row are prompt, where they do not all end in one column.
        before: how many of them were filled before the recording began.
        encoder: the group of the encoder's rows that this decoder group attends to, or None.
        delivered: whether these sequences were delivered as they are now.
        is_closing: whether what it keeps is asked for the last time.
        is_draft: whether it began in a `generate` within another one.
        has_holes: whether parts of the model were skipped, so that it cannot be delivered.
    """

    def __init__(self, number: int, selection: Selection, kept: KeptRows, circumstances: dict[str, Any]) -> None:
        self.number = number
        self.circumstances = circumstances
        self.kept = kept
        self.columns = Columns()
        self.roots: dict[int, int] = {}
        self.rows: list[Row] = []
        self.ended: list[Row] = []
        self.origins = self.batch_size = self.filled = self.prompt_width = self.before = 0
        self.prompts: Sequence[int] | None = None
        self.encoder: SequenceGroup | None = None
        self.delivered = self.is_closing = self.is_draft = self.has_holes = False
        self._selection = selection
        self._count = 0
        self._arrivals = Arrivals(0, 0, None)
        self._cache: Any = None
        self._address: int | None = None

    def owns(self, cache: Any) -> bool:
        """Whether this is the cache that the group's last call filled."""
        return cache is not None and self._cache is not None and self._cache() is cache

    def is_over(self) -> bool:
        """Whether nothing more is to come: no cache continues these sequences, and they wait for no gradient."""
        return (self._cache is None or self._cache() is None) and not self.kept.waits()

    def recomputed_by(self, call: Call) -> list[int] | None:
        """Which row each row of a call computes again from the start, and continues; None unless all of them do."""
        if self._cache is not None or call.cache is not None or call.ids is None or call.rows != len(self.rows):
            return None
        known = [self.tokens(row.settled(self.columns)) for row in self.rows]
        found = []
        for number, ids in enumerate(call.ids):
            real = call.real[number] if call.real is not None else None
            given = ids if real is None else [token for token, is_real in zip(ids, real, strict=True) if is_real]
            # Without a cache beams show only in what is fed; a row that was not moved goes on from itself.
            others = (other for other in range(call.rows) if other != number)
            own = next((n for n in (number, *others) if given[: len(known[n])] == known[n]), None)
            if own is None:
                return None
            found.append(own)
        return found

    def tokens(self, chain: Sequence[int]) -> list[int]:
        """The ids of some columns."""
        return list(map(self.columns.tokens.__getitem__, chain))

    def slots(self, chain: Sequence[int]) -> list[int]:
        """The slots of the cache that some columns fill."""
        return list(map(self.columns.slots.__getitem__, chain))

    def prompt_length(self, chain: Sequence[int]) -> int:
        """How many positions of a sequence are prompt."""
        if self.prompts is not None:
            return self.prompts[self.roots[chain[0]]]
        return bisect_left(chain, self.prompt_width, key=self.columns.slots.__getitem__)

    def computed_before(self, chain: Sequence[int]) -> int:
        """How many positions of a sequence were computed before the recording began."""
        return bisect_left(chain, self.before, key=self.columns.slots.__getitem__) if self.before else 0

    # What happens to the rows: a call extends them, the cache moves them, a copy of the cache takes them elsewhere.

    def extend(self, call: Call, prompt_width: int | None) -> None:
        """Take in what a call computes, before its tensors come.

        Args:
            call: one that starts these sequences, continues their cache, or recomputes them.
            prompt_width: how many slots are prompt, where `generate` tells; else the first call is the prompt.

        Raises:
            CaptureError: the call does not fit what is known of its cache.
        """
        start = call.start = self.filled if call.start is None else call.start
        is_first = not self.rows
        if is_first:
            self._begin(call, start)
        self._check_cache(call, start)
        recomputed = self._cache is None and call.cache is None
        if prompt_width is not None:
            self._set_prompt(prompt_width)
        elif start < self.filled and not recomputed:
            self._set_prompt(min(self.prompt_width, start))
        self.delivered = False
        self.filled = start + call.width
        self._arrivals = self._advance(call, start, recomputed, is_first)
        self._check_prompts(call, prompt_width)

    def commit(self, cache: Any) -> None:
        """The call that `extend` took in last has returned, and this cache will continue it."""
        for row in self.rows:
            row.committed = row.length
        self.keep_to(cache)
        self._address = cache_address(cache)

    def keep_to(self, cache: Any) -> None:
        """Go on with this cache, or with none."""
        self._address = None
        try:
            self._cache = weakref.ref(cache) if cache is not None else None
        except TypeError:  # a tuple of a model's own; a call that passes it is refused
            self._cache = None

    def move_rows(self, order: Sequence[int], *, others_ended: bool = False) -> None:
        """Row i is now what row `order[i]` was."""
        self._address = None
        times = Counter(order)
        if others_ended:
            kept = Counter(self.rows[number].origin for number in times)
            only_leave = len(times) == len(order)
            # Beams that are given up make room for copies of others; of copies that one pass was tried on, one is kept.
            self.ended += [
                row
                for number, row in enumerate(self.rows)
                if number not in times
                and (not kept[row.origin] or (only_leave and (kept[row.origin] > 1 or row.passes > 1)))
            ]
        self.rows = [self.rows[number].copy(passes=0 if times[number] > 1 else None) for number in order]
        self.batch_size = max(self.batch_size, len(self.rows))

    def copy(self, number: int, scratch: Scratch) -> SequenceGroup:
        """The same sequences, which a copy of the cache will continue; until it does there is nothing to deliver."""
        copied = SequenceGroup(number, self._selection, self.kept.copy(scratch), self.circumstances)
        copied.columns, copied.roots = self.columns.copy(), dict(self.roots)
        copied.rows = [row.copy() for row in self.rows]
        copied.origins, copied.filled, copied.prompt_width = self.origins, self.filled, self.prompt_width
        copied.before, copied.encoder, copied.is_draft = self.before, self.encoder, self.is_draft
        copied.batch_size = self.batch_size
        copied.has_holes, copied.delivered = self.has_holes, True
        copied._count = self._count
        return copied

    def release(self) -> Scratch:
        """Forget every activation, and give the memory to the sequences that come next."""
        return self.kept.release()

    # Activations in, and out again.

    def take(self, site: str, place: Place, tensor: Tensor, call: Call) -> None:
        """Keep what is selected of one tensor of the call that `extend` took in last."""
        self.kept.take(site, place, tensor, call, self._arrivals)

    def activations(self, chains: Sequence[Sequence[int]]) -> list[RowActivations]:
        """The selected activations of some sequences, in new tensors.

        Args:
            chains: the columns of each sequence.

        Raises:
            CaptureError: a selected position was not kept.
        """
        return gather(self.kept, self._selection, [self._choose(chain) for chain in chains], last=self.is_closing)

    def _choose(self, chain: Sequence[int]) -> Choice:
        """The selected positions of a sequence that were computed here, and their cells."""
        all_cells = self.columns.cells
        positions = self._selection.choose(len(chain), self.prompt_length(chain))
        cells = [all_cells[chain[position]] for position in positions]
        if self.before and NOT_RUN in cells:
            kept = [place for place, cell in enumerate(cells) if cell != NOT_RUN]
            positions, cells = [positions[place] for place in kept], [cells[place] for place in kept]
        if NOT_KEPT in cells:
            lost = positions[cells.index(NOT_KEPT)]
            raise CaptureError(f"position {lost} was not kept, because the cache was cropped to it afterwards")
        return Choice(positions, cells, self.slots(chain) if self.kept.patterns else [])

    def _begin(self, call: Call, start: int) -> None:
        """Make the rows, with the columns that others put into their cache before."""
        self.rows = [Row(number) for number in range(call.rows)]
        self.origins, self.filled, self.before = call.rows, start, start
        self.batch_size = call.rows
        self.prompt_width = start + call.width
        past = tokens_before(call)
        for number, row in enumerate(self.rows if start else []):
            real = past[number] if past is not None else [True] * start
            slots = [slot for slot, is_real in enumerate(real) if is_real]
            self._grow(row, [UNKNOWN] * len(slots), slots, [NOT_RUN] * len(slots))

    def _set_prompt(self, width: int) -> None:
        if width != self.prompt_width:
            self.prompt_width = width
            for row in self.rows:
                row.prompt = None

    def _advance(self, call: Call, start: int, recomputed: bool, is_first: bool) -> Arrivals:
        """Add the columns of a call to its rows, and number those that are kept."""
        kept: list[int] = []
        first_cell, is_whole = self._count, self._selection.positions == "all"
        for number, row in enumerate(self.rows):
            fresh = arriving(row, call, number, self.columns, recomputed)
            before = row.length
            row.passes += 1
            if is_whole:
                cells: Sequence[int] = range(first_cell + len(kept), first_cell + len(kept) + len(fresh))
                kept.extend(
                    range(number * call.width + fresh.start, number * call.width + fresh.stop)
                    if isinstance(fresh, range)
                    else [number * call.width + column for column in fresh]
                )
            else:
                cells = [NOT_KEPT] * len(fresh)
                prompt = self._prompt_of(row, start, fresh)
                for position in self._selection.may_keep(before, before + len(fresh), prompt):
                    cells[position - before] = first_cell + len(kept)
                    kept.append(number * call.width + fresh[position - before])
            tokens = [call.ids[number][column] for column in fresh] if call.ids is not None else [UNKNOWN] * len(fresh)
            self._grow(row, tokens, [start + column for column in fresh], cells)
        self._count += len(kept)
        chosen = torch.tensor(kept, dtype=torch.long) if len(kept) < call.rows * call.width else None
        return Arrivals(first_cell, len(kept), chosen, is_first and chosen is None)

    def _grow(self, row: Row, tokens: list[int], slots: list[int], cells: Sequence[int]) -> None:
        if row.tip == ROOT:
            self.roots[len(self.columns)] = row.origin
        row.tip = self.columns.append(row.tip, tokens, slots, cells)
        row.length += len(tokens)

    def _prompt_of(self, row: Row, start: int, fresh: Sequence[int]) -> int:
        """How many positions of a row are prompt, with those that a call adds."""
        if self.prompts is not None:
            return self.prompts[row.origin]
        if row.prompt is not None and start >= self.prompt_width:
            return row.prompt
        _, length = self.columns.before(row.tip, row.length, self.prompt_width)
        if length == row.length:
            length += bisect_left(fresh, self.prompt_width - start)
        if self.filled >= self.prompt_width:
            row.prompt = length
        return length

    def _check_cache(self, call: Call, start: int) -> None:
        if call.rows != len(self.rows):
            raise CaptureError(
                f"a forward pass of {call.rows} rows continues a KV cache that was filled with {len(self.rows)}; rows "
                "dropped or repeated in mid-sequence cannot be told apart. Record them with a cache of their own"
            )
        if start > self.filled:
            raise CaptureError(
                f"this KV cache holds {start} positions, of which only {self.filled} were recorded; "
                "begin the recording before the first of them is computed"
            )
        if start and start == self.filled and self._address not in (None, cache_address(call.cache)):
            raise CaptureError(
                "the rows of this KV cache were moved since its last forward pass by something other than "
                "reorder_cache, batch_select_indices and batch_repeat_interleave, so they cannot be told apart"
            )

    def _check_prompts(self, call: Call, prompt_width: int | None) -> None:
        # A chunk of a padded prompt may be all padding; a whole prompt may not.
        whole = call.cache is None if prompt_width is None else self.filled >= prompt_width
        empty = [number for number, row in enumerate(self.rows) if not row.length]
        if whole and empty:
            raise CaptureError(f"row {empty[0]} of the batch holds nothing but padding; leave empty prompts out")
