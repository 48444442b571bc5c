"""Continuous batching: whose each column of a packed row is, and what others have computed of a request's past.

`generate_batch` packs the tokens of many requests into one row. While a forward pass runs, the batch that was scheduled
names the request of each segment, so nothing is guessed from the tokens. Keys are kept in blocks of a paged cache. A
request may begin with blocks that others filled, where its prompt begins as theirs did: so this mirrors what each block
holds. The cache may give a request's blocks to others, and the request is computed once more later: the computation of
a position that led to the token after it is the one that is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actframe.capture.columns import NOT_KEPT, NOT_RUN, ROOT, Columns
from actframe.capture.selection import Selection
from actframe.errors import CaptureError

__all__ = ["PackedColumns", "PagedRequests", "Track"]

_ABOUT = "continuous batching packed a forward pass in a way that cannot be followed"


@dataclass(eq=False)
class Track:
    """One request, as far as it has been computed.

    Attributes:
        name: the request's id.
        prompt_length: how many of its tokens are prompt.
        chain: the column of each position.
        block: the columns in its last block of the paged cache, while that is not full.
        answer: the tokens of the prompt and of the response as they were given out, or None.
    """

    name: str
    prompt_length: int
    chain: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    answer: tuple[list[int], list[int]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Track:
        # A request that is forked is deep-copied, and this with it: what it has computed is the fork's past as well.
        return Track(self.name, self.prompt_length, self.chain.copy(), self.block.copy())


@dataclass(frozen=True)
class PackedColumns:
    """What one packed forward pass brings.

    Attributes:
        width: how many columns its one row has.
        kept: the columns that are kept; they get the next cells, in this order.
        first_cell: the cell of the first of them.
        predicting: the columns that the head is applied to.
    """

    width: int
    kept: list[int]
    first_cell: int
    predicting: list[int]


class PagedRequests:
    """The requests of one `ContinuousBatchingManager`, while its forward passes are recorded.

    Args:
        manager: whose they are.
        selection: what is kept of each request.
        columns: where what they compute is noted.

    Attributes:
        largest: how many requests were packed together at most.
    """

    _numbers = itertools.count()

    def __init__(self, manager: Any, selection: Selection, columns: Columns) -> None:
        self.manager = manager
        self.columns = columns
        self.largest = 0
        self._selection = selection
        self._mark = f"_actframe_{next(self._numbers)}"
        self._open: dict[str, Track] = {}
        self._answered: list[Track] = []
        self._cache: Any = None
        self._shared: Any = None
        self._blocks: dict[int, list[int]] = {}
        self._count = 0

    def owns(self, cache: Any) -> bool:
        """Whether a packed forward pass with this paged cache is the manager's."""
        processor = self.manager.batch_processor
        return cache is not None and processor is not None and processor.cache is cache

    def read(self, given: Mapping[str, Any]) -> PackedColumns:
        """Take in what a packed forward pass computes, from its arguments, before it runs.

        Raises:
            CaptureError: they are not what was scheduled.
        """
        self._turn_to(given["cache"])
        # The arguments are buffers that the next batch is written into.
        ids, positions = given["input_ids"][0].tolist(), given["position_ids"][0].tolist()
        scheduled = self.manager.batch_processor.inputs_and_outputs.requests_in_batch
        stops = list(itertools.accumulate(each.query_length for each in scheduled))
        if given["cu_seq_lens_q"].tolist()[: len(stops) + 1] != [0, *stops] or (stops and stops[-1] > len(ids)):
            raise CaptureError(f"{_ABOUT}: its segments are not the requests that were scheduled")
        self.largest = max(self.largest, len(scheduled))
        kept: list[int] = []
        first_cell = self._count
        for request, start, stop in zip(scheduled, [0, *stops], stops, strict=False):
            first = request.state.position_offset - request.query_length
            if positions[start:stop] != list(range(first, first + stop - start)):
                raise CaptureError(f"{_ABOUT}: request {request.state.request_id!r} is not at position {first}")
            kept += [start + place for place in self._advance(request.state, first, ids[start:stop])]
        predicting = [stop - 1 for request, stop in zip(scheduled, stops, strict=True) if request.has_new_token]
        return PackedColumns(len(ids), kept, first_cell, predicting)

    def answer(self, output: Any) -> None:
        """A request has been given out: with all of its response, or with an error.

        Args:
            output: transformers' `GenerationOutput` of it.
        """
        track = self._open.pop(output.request_id, None)
        if track is not None and output.error is None:
            track.answer = list(output.prompt_ids), list(output.generated_tokens)
            self._answered.append(track)

    def take_answered(self) -> list[Track]:
        """The requests that were answered since the last time, in the order of their answers."""
        answered, self._answered = self._answered, []
        return answered

    @property
    def unanswered(self) -> list[str]:
        """The ids of requests that were computed in part."""
        return list(self._open)

    def chain_of(self, track: Track) -> list[int]:
        """The columns of an answered request: all that it was fed. Its last token never was.

        Raises:
            CaptureError: it was not fed the tokens that it was answered with.
        """
        assert track.answer is not None
        prompt, response = track.answer
        fed = [*prompt, *response[:-1]]
        chain = track.chain[: len(fed)]
        if [self.columns.tokens[column] for column in chain] != fed or len(prompt) != track.prompt_length:
            raise CaptureError(
                f"request {track.name!r} was answered with tokens that were not fed to the model in this recording, so "
                "its activations cannot be told"
            )
        return chain

    def _turn_to(self, cache: Any) -> None:
        if cache is self._cache:
            return
        self._cache, self._blocks = cache, {}
        # Blocks are shared only where every kind of attention can share them; one kind then tells for all.
        self._shared = next(iter(cache.cache_allocators.values())) if cache.use_prefix_sharing else None

    def _advance(self, state: Any, first: int, ids: list[int]) -> list[int]:
        """Take in the segment of one request, and say which of its columns are kept."""
        track = self._track_of(state)
        if first > len(track.chain):
            self._adopt(track, state, first)
        known = len(track.chain)
        again = track.chain[first : first + len(ids)]
        if [self.columns.tokens[column] for column in again] != ids[: len(again)]:
            raise CaptureError(f"{_ABOUT}: request {track.name!r} is computed again with other tokens")
        # What is computed again is for those who find it in the cache; the request itself has had it.
        start, stop = first + (len(again) if self._shared is None else 0), first + len(ids)
        wanted = self._may_keep(start, stop, track.prompt_length)
        cells = [NOT_KEPT] * (stop - start)
        for cell, position in enumerate(wanted, start=self._count):
            cells[position - start] = cell
        self._count += len(wanted)
        columns = range(len(self.columns), len(self.columns) + stop - start)
        tip = track.chain[start - 1] if start else ROOT
        self.columns.append(tip, ids[start - first :], range(start, stop), cells)
        track.chain.extend(columns[max(known - start, 0) :])
        if self._shared is not None:
            self._write(track, start, columns)
        return [position - first for position in wanted]

    def _may_keep(self, first: int, last: int, prompt_length: int) -> range | list[int]:
        """The positions that a record may need: with shared blocks, the record of another request too."""
        positions = self._selection.positions
        if self._shared is not None:
            # What counts from the end of one request, or ends with its prompt, is elsewhere in another.
            if positions == "prompt" or (isinstance(positions, slice) and (positions.start or 0) < 0):
                return range(first, last)
            if not isinstance(positions, str | slice) and min(positions) < 0:
                return range(first, last)
        return self._selection.may_keep(first, last, prompt_length)

    def _track_of(self, state: Any) -> Track:
        """What is known of a request: followed before, forked from one that was, begun again, or new."""
        track: Track | None = getattr(state, self._mark, None)
        if track is None and 0 < state._true_initial_tokens < len(state.initial_tokens):
            # Begun again after tokens were given out; what was computed before the first of them led to nothing.
            track = self._open.get(state.request_id)
        if track is None:
            track = Track(state.request_id, state._true_initial_tokens or len(state.initial_tokens))
        track.name = state.request_id
        setattr(state, self._mark, track)
        self._open[track.name] = track
        return track

    def _adopt(self, track: Track, state: Any, first: int) -> None:
        """Begin a request with the blocks of its prompt that others filled, here or before the recording."""
        size = self._shared.tokens_per_page if self._shared is not None else 0
        if track.chain or not size or first % size:
            raise CaptureError(f"{_ABOUT}: request {track.name!r} goes on from {first} positions that it never had")
        tokens = state.initial_tokens[:first]
        found: list[int] = []
        for number in self._shared.block_table[state.request_id][: first // size]:
            block = self._blocks.get(number)
            if block is None or len(block) != size:
                # It has no activations here, and neither has anything before it: positions begin once.
                slots = range(len(found) + size)
                tip = self.columns.append(ROOT, tokens[: len(slots)], slots, [NOT_RUN] * len(slots))
                found = self.columns.chain(tip, len(slots))
            else:
                found += block
        if [self.columns.tokens[column] for column in found] != tokens:
            raise CaptureError(f"{_ABOUT}: request {track.name!r} goes on from the tokens of another")
        track.chain = found

    def _write(self, track: Track, position: int, columns: Sequence[int]) -> None:
        """Note what is written into the paged cache from a position on."""
        size, table = self._shared.tokens_per_page, self._shared.block_table[track.name]
        while columns:
            number, place = divmod(position, size)
            if place == 0:
                track.block = []
            if len(track.block) != place:
                raise CaptureError(f"{_ABOUT}: request {track.name!r} leaves a hole in a block of the paged cache")
            track.block.extend(columns[: size - place])
            # A fork goes on in a copy of the block, which becomes visible only now.
            self._blocks[table[number]] = track.block
            position, columns = position + size - place, columns[size - place :]
