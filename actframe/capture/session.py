"""What one `with` block has seen so far: open calls, sequences that grow, and those that are complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import Any

from torch import Tensor

from actframe.capture.axes import call_shape
from actframe.capture.batches import RecordedSequence, sequences_so_far
from actframe.capture.calls import Call, fit_shape, read_call, returned_cache
from actframe.capture.encodings import Encodings
from actframe.capture.generation import Generation
from actframe.capture.groups import Groups
from actframe.capture.layout import ModelLayout, Tower
from actframe.capture.outside import check_outside, is_backward
from actframe.capture.packed import PackedRuns
from actframe.capture.parts import Place
from actframe.capture.refusals import check_past, check_prompt
from actframe.capture.sequence import SequenceGroup
from actframe.capture.sites import MODULE
from actframe.errors import CaptureError

__all__ = ["Session"]

Deliver = Callable[[list[RecordedSequence]], None]


@dataclass(slots=True)
class _Open:
    """A forward pass of one tower that is running, and the sequences that it grows."""

    call: Call
    group: SequenceGroup


class Session:
    """Turns forward passes, emitted tensors and calls of `generate` into finished sequences.

    Args:
        layout: of the model.
        places: the place of each selected site.
        groups: where sequences grow.
        deliver: takes sequences that close together, in order.

    Attributes:
        groups: the sequences that grow.
        packed: those of continuous batching.
        thread: the one that began the recording.
        records_this_thread: whether what the running thread does is recorded here.
        main: prefix of the tower whose sequences are recorded; those of an encoder belong to them.
        towers: whose forward passes are followed: those of the language model, and those beside it with a selected
            site. Where such alone are selected, the language model is not.
        fired: the sites that were emitted.
        towers_run: the towers that ran.
        forwards: how many forward passes there were.
    """

    def __init__(
        self,
        layout: ModelLayout,
        places: dict[str, Place],
        groups: Groups,
        deliver: Deliver,
    ) -> None:
        self.groups = groups
        self.thread = get_ident()
        self.records_this_thread: Callable[[], bool] = _always
        self.main = layout.towers[-1].prefix if layout.towers else ""
        self.towers = layout.followed({place.tower for place in places.values()}) or (Tower("", ()),)
        self.fired: set[str] = set()
        self.towers_run: set[str] = set()
        self.forwards = 0
        self._places = places
        self._required: dict[str, list[str]] = {}
        for site, place in places.items():
            if not site.startswith(MODULE):
                self._required.setdefault(place.tower, []).append(site)
        self._beside = layout.beside
        self._needs_encoder = any(place.tower not in {self.main, *self._beside} for place in places.values())
        self._deliver = deliver
        self._encodings = Encodings()
        self.packed = PackedRuns(groups, places, deliver)
        self._open: dict[int, dict[str, _Open]] = {}
        self._generation: Generation | None = None

    # A forward pass of one tower: begin, emit for each site, end or abort.

    def begin(self, tower: str, arguments: dict[str, Any]) -> None:
        """A tower's forward is about to run with these arguments."""
        if not self.records_this_thread() or is_backward():
            return
        packed = self.packed.group_of(arguments)
        thread = get_ident()
        if packed is None and any(running and other != thread for other, running in self._open.items()):
            raise CaptureError(
                "two threads ran this model at once inside one recording, and their activations cannot be told apart; "
                "run it from one thread at a time, or let each thread record what it runs"
            )
        self.forwards += 1
        self.towers_run.add(tower)
        if packed is not None:
            self._open.setdefault(thread, {})[tower] = _Open(packed.open_call(arguments), packed)
            return
        call = read_call(arguments)
        group = self._group_of(call, tower)
        self._open.setdefault(thread, {})[tower] = _Open(call, group)
        if call.width:
            self._extend(call, group, tower)

    def emit(self, site: str, tensor: Tensor) -> None:
        """A strategy gives one site's tensor."""
        place = self._places[site]
        running = self._open.get(get_ident())
        current = running.get(place.tower) if running else None
        if current is None:
            if self.records_this_thread():
                check_outside(site)
            return
        call, group = current.call, current.group
        if not call.width:
            fit_shape(call, call_shape(site, place, tensor))
            self._extend(call, group, place.tower)
        if site in call.fired:
            raise CaptureError(
                f"{site} ran more than once in one forward pass, so what it computed cannot be told apart; "
                "leave it out of the selection"
            )
        call.fired.add(site)
        group.take(site, place, tensor, call)

    def end(self, tower: str, output: Any) -> None:
        """A tower's forward has returned."""
        running = self._open.get(get_ident())
        current = running.pop(tower, None) if running else None
        if current is None:
            return
        call, group = current.call, current.group
        self.fired |= call.fired
        missing = [site for site in self._required.get(tower, ()) if site not in call.fired]
        if missing and not self._is_draft():
            self._drop(group)
            raise CaptureError(
                f"{', '.join(missing)} did not run in a forward pass that should have run it; a record with holes is "
                "refused. Leave it out of the selection, or switch the skipping of layers off"
            )
        group.has_holes |= bool(missing)
        group.commit(call.cache if call.cache is not None else returned_cache(output))
        if tower in self._beside:
            self.groups.add(group, before=self._around())
        elif tower != self.main:
            self._encodings.add(group, output)

    def abort(self, tower: str) -> None:
        """A tower's forward is over; if it has not ended, it raised, and its sequences are given up."""
        running = self._open.get(get_ident())
        if running and tower in running:
            given_up = running.pop(tower)
            self.fired |= given_up.call.fired
            self._drop(given_up.group)
            if tower == self.main:
                for group in self.groups.seen_within(given_up.group):
                    self._drop(group)

    # Sequences: a call starts some, continues their cache, or recomputes them.

    def _group_of(self, call: Call, tower: str) -> SequenceGroup:
        self._close_what_is_over(call)
        if tower in self._beside:
            group = self.groups.new(within=self._around())
            if self._generation is not None:
                self._generation.seen.append(group)
            return group
        if tower != self.main:
            return self.groups.new()
        if call.start != 0:
            if (owner := self.groups.owner(call.cache)) is not None:
                return owner
            check_past(call)
        elif self._generation is not None:
            for group in self._generation.groups:
                if (order := group.recomputed_by(call)) is not None:
                    group.move_rows(order)
                    return group
        group = self.groups.new()
        group.is_draft = self._is_draft()
        group.encoder = self._encodings.attended_by(call.encoder_states)
        if group.encoder is None and self._needs_encoder and call.encoder_states is not None:
            raise CaptureError(
                "the decoder attends to encoder states that were computed outside this recording, so the selected "
                "sites of the encoder are missing; let the encoder run inside the block, or select decoder.* sites"
            )
        self.groups.add(group)
        return group

    def _around(self) -> SequenceGroup | None:
        """The sequences of the language model in whose forward pass a tower beside it runs."""
        opened = self._open.get(get_ident(), {}).get(self.main)
        return opened.group if opened is not None else None

    def _is_draft(self) -> bool:
        return self._generation is not None and self._generation.depth > 0

    def _extend(self, call: Call, group: SequenceGroup, tower: str) -> None:
        prompt_width = None
        if self._generation is not None and tower == self.main:
            if group not in self._generation.groups:
                self._generation.groups.append(group)
            prompt_width = self._generation.prompt_width
            check_prompt(call, prompt_width)
        group.extend(call, prompt_width)

    # Closing: what can no longer grow is delivered.

    def start_generation(self, generation: Generation) -> None:
        """`generate` is about to run."""
        self._generation = generation

    def generation(self) -> Generation | None:
        """The call of `generate` that is running, in this thread.

        Raises:
            CaptureError: one is running in another thread.
        """
        if self._generation is not None and self._generation.thread != get_ident():
            raise CaptureError(
                "another thread is generating with this model inside one recording, and their sequences cannot be "
                "told apart; generate from one thread at a time, or let each thread record what it runs"
            )
        return self._generation

    def finish_generation(self, result: Any) -> None:
        """`generate` has returned: deliver its answers, and forget what else ran meanwhile."""
        assert self._generation is not None
        generation, self._generation = self._generation, None
        self._encodings.let_go()
        kept: set[int] = set()
        try:
            for seen in generation.seen:
                self._close(seen)
            if all(tower.prefix != self.main for tower in self.towers):
                return
            sequences = generation.finish(result)
            for sequence in sequences:
                # A cache that somebody still holds may be continued, as in a conversation of several turns.
                if not sequence.group.is_over():
                    kept.add(sequence.group.number)
                sequence.group.delivered = True
            self._deliver(sequences)
        finally:
            for group in list(generation.groups):
                if group.number not in kept:
                    self._drop(group)

    def abandon_generation(self) -> None:
        """`generate` raised: its sequences are given up."""
        if self._generation is not None:
            generation, self._generation = self._generation, None
            for group in [*generation.seen, *generation.groups]:
                self._drop(group)
            self._encodings = Encodings()
        # Other threads go on: that of a manager of continuous batching, say.
        self._open.pop(get_ident(), None)

    def close(self) -> None:
        """The block has ended: deliver every sequence that is still open."""
        self._open.clear()
        while (group := next(iter(self.groups), None)) is not None:
            self._close(group)
        self._close_encoders(all_of_them=True)
        self.packed.close()

    def open_sequences(self) -> list[list[RecordedSequence]]:
        """The sequences that are still open, as far as they have come; what grew last comes last."""
        return [sequences_so_far(group) for group in self.groups if not group.delivered]

    def _close_what_is_over(self, call: Call) -> None:
        """Deliver the sequences that no call can continue, now that another one begins."""
        running = self._generation
        within = [*running.seen, *running.groups] if running is not None else []
        # A tower beside the language model runs within the forward pass of the language model.
        within += [opened.group for opened_here in self._open.values() for opened in opened_here.values()]
        for group in self.groups:
            if group not in within and (group.is_over() or (call.start == 0 and group.owns(call.cache))):
                self._close(group)
        self._close_encoders()

    def _close_encoders(self, *, all_of_them: bool = False) -> None:
        """Deliver the rows of encoders by themselves where no decoder attended to them."""
        for group in self._encodings.take_unattended(all_of_them=all_of_them):
            group.kept.check_complete()
            self._deliver(sequences_so_far(group))

    def _close(self, group: SequenceGroup) -> None:
        # Taken off first: whoever gets the records may run the model again.
        self.groups.remove(group)
        try:
            if not group.delivered:
                group.kept.check_complete()
                sequences = sequences_so_far(group)
                group.is_closing = len(sequences) == 1
                self._deliver(sequences)
        finally:
            self._drop(group)

    def _drop(self, group: SequenceGroup) -> None:
        if self.packed.holds(group):  # its manager stops, and what it answered before is delivered then
            return
        if self._generation is not None:
            self._generation.forget(group)
        self.groups.release(group)


def _always() -> bool:
    return True
