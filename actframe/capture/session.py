"""What one `with` block has seen so far: open calls, sequences that grow, and those that are complete."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from actframe.capture.axes import call_shape
from actframe.capture.batches import Batch, RecordedSequence, batch_so_far
from actframe.capture.calls import Call, read_call
from actframe.capture.encodings import Encodings
from actframe.capture.generation import Generation
from actframe.capture.layout import ModelLayout, Place
from actframe.capture.selection import Scratch, Selection
from actframe.capture.sequence import SequenceGroup
from actframe.capture.sites import MODULE
from actframe.errors import CaptureError

__all__ = ["Session"]

Deliver = Callable[[Batch], None]


class Session:
    """Turns forward passes, emitted tensors and calls of `generate` into finished sequences.

    Args:
        layout: of the model.
        places: the place of each selected site.
        selection: what is kept of each tensor.
        scratch: memory of an earlier session, or None.
        describe: says how the model computes at this moment.
        deliver: takes the rows of a batch when their sequences close, in row order.
    """

    def __init__(
        self,
        layout: ModelLayout,
        places: dict[str, Place],
        selection: Selection,
        scratch: Scratch | None,
        describe: Callable[[], dict[str, Any]],
        deliver: Deliver,
    ) -> None:
        prefixes = [tower.prefix for tower in layout.towers]
        self.main = prefixes[-1] if prefixes else ""
        self.fired: set[str] = set()
        self.towers_run: set[str] = set()
        self.forwards = 0
        self._places = places
        self._required: dict[str, list[str]] = {}
        for site, place in places.items():
            if not site.startswith(MODULE):
                self._required.setdefault(place.tower, []).append(site)
        self._needs_encoder = any(place.tower != self.main for place in places.values())
        self._selection = selection
        self._describe = describe
        self._deliver = deliver
        self._groups: list[SequenceGroup] = []
        self._encodings = Encodings()
        self._open: dict[str, tuple[Call, SequenceGroup]] = {}
        self._thread: int | None = None
        self._generation: Generation | None = None
        self._begun = 0
        self._spare = scratch

    # A forward pass of one tower: begin, emit for each site, end or abort.

    def begin(self, tower: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A tower's forward is about to run with these arguments."""
        if self._open and self._thread != threading.get_ident():
            raise CaptureError(
                "two threads ran this model at once inside one recording, and their activations cannot be told apart; "
                "run it from one thread at a time"
            )
        self._thread = threading.get_ident()
        self.forwards += 1
        self.towers_run.add(tower)
        call = read_call(module, args, kwargs)
        group = self._group_of(call, tower)
        self._open[tower] = (call, group)
        if call.width:
            self._extend(call, group, tower)

    def emit(self, site: str, tensor: Tensor) -> None:
        """A strategy gives one site's tensor."""
        place = self._places[site]
        current = self._open.get(place.tower)
        if current is None:
            _check_outside(site)
            return
        call, group = current
        if not call.width:
            call.rows, call.width = call_shape(site, place, tensor)
            self._extend(call, group, place.tower)
        call.fired[site] += 1
        if call.fired[site] > 1:
            raise CaptureError(
                f"{site} ran more than once in one forward pass, so what it computed cannot be told apart; "
                "leave it out of the selection"
            )
        self.fired.add(site)
        group.take(site, place, tensor, call)

    def end(self, tower: str, output: Any) -> None:
        """A tower's forward has returned."""
        current = self._open.get(tower)
        if current is None:
            return
        call, group = current
        missing = [site for site in self._required.get(tower, ()) if not call.fired[site]]
        if missing:
            raise CaptureError(
                f"{', '.join(missing)} did not run in a forward pass that should have run it; a record with holes is "
                "refused. Leave it out of the selection, or switch the skipping of layers off"
            )
        del self._open[tower]
        group.commit(call.cache if call.cache is not None else _cache_of(output))
        if tower != self.main:
            self._encodings.add(group, output)

    def abort(self, tower: str) -> None:
        """A tower's forward is over; if it has not ended, it raised, and its sequences are given up."""
        if tower in self._open:
            _, group = self._open.pop(tower)
            self._drop(group)

    # Sequences: a call starts some, continues their cache, or recomputes them.

    def _group_of(self, call: Call, tower: str) -> SequenceGroup:
        self._close_what_is_over(call)
        if tower != self.main:
            return self._new_group()
        for group in self._groups:
            if call.start and group.owns(call.cache):
                return group
        if call.start:
            raise CaptureError(
                f"a forward pass continues a KV cache of {call.start} positions, of which this recorder has no record: "
                "it was filled before the recording began, copied, or its sequences were given up. "
                "Begin the recording before the prompt is computed, or pass no past_key_values"
            )
        if self._generation is not None:
            for group in self._generation.groups:
                if group.recomputes(call):
                    return group
        group = self._new_group()
        group.encoder = self._encodings.attended_by(call.encoder_states)
        if group.encoder is None and self._needs_encoder and call.encoder_states is not None:
            raise CaptureError(
                "the decoder attends to encoder states that were computed outside this recording, so the selected "
                "sites of the encoder are missing; let the encoder run inside the block, or select decoder.* sites"
            )
        self._groups.append(group)
        return group

    def _new_group(self) -> SequenceGroup:
        self._begun += 1
        spare, self._spare = self._spare or Scratch(), None
        return SequenceGroup(self._begun, self._selection, spare, self._describe())

    def _extend(self, call: Call, group: SequenceGroup, tower: str) -> None:
        prompt_width = None
        if self._generation is not None and tower == self.main:
            if group not in self._generation.groups:
                self._generation.groups.append(group)
            prompt_width = self._generation.prompt_width
        group.extend(call, prompt_width)

    # Closing: what can no longer grow is delivered.

    def start_generation(self, generation: Generation) -> None:
        """`generate` is about to run."""
        self._generation = generation

    def generates(self) -> bool:
        """Whether `generate` is running, in this thread.

        Raises:
            CaptureError: it is running in another thread.
        """
        if self._generation is not None and self._generation.thread != threading.get_ident():
            raise CaptureError(
                "another thread is generating with this model inside one recording, and their sequences cannot be "
                "told apart; generate from one thread at a time"
            )
        return self._generation is not None

    def finish_generation(self, result: Any) -> None:
        """`generate` has returned: deliver the rows of its answer, and forget what else ran meanwhile."""
        assert self._generation is not None
        generation, self._generation = self._generation, None
        self._encodings.let_go()
        kept: SequenceGroup | None = None
        try:
            group, answers = generation.finish(result)
            # A cache that somebody still holds may be continued, as in a conversation of several turns.
            kept = None if group.is_over() else group
            group.delivered = True
            sequences = [
                RecordedSequence(number, answer.input_ids, answer.output_ids, answer.length)
                for number, answer in enumerate(answers)
            ]
            self._deliver(Batch(group, sequences))
        finally:
            for other in generation.groups:
                if other is not kept:
                    self._drop(other)

    def abandon_generation(self) -> None:
        """`generate` raised: its sequences are given up."""
        if self._generation is not None:
            generation, self._generation = self._generation, None
            for group in generation.groups:
                self._drop(group)
            self._encodings = Encodings()
        self._open.clear()

    def close(self) -> None:
        """The block has ended: deliver every sequence that is still open."""
        self._open.clear()
        while self._groups:
            self._close(self._groups[0])
        self._close_encoders(all_of_them=True)

    def take_scratch(self) -> Scratch | None:
        """The memory for a session to come; this one is closed."""
        return self._spare

    def open_batches(self) -> list[Batch]:
        """The sequences that are still open, as far as they have come; what grew last comes last."""
        return [batch_so_far(group) for group in self._groups if not group.delivered]

    def _close_what_is_over(self, call: Call) -> None:
        """Deliver the sequences that no call can continue, now that another one begins."""
        within = self._generation.groups if self._generation is not None else []
        for group in list(self._groups):
            if group not in within and (group.is_over() or (not call.start and group.owns(call.cache))):
                self._close(group)
        self._close_encoders()

    def _close_encoders(self, *, all_of_them: bool = False) -> None:
        """Deliver the rows of encoders by themselves where no decoder attended to them."""
        for group in self._encodings.take_unattended(all_of_them=all_of_them):
            self._deliver(batch_so_far(group))

    def _close(self, group: SequenceGroup) -> None:
        # Taken off first: whoever gets the records may run the model again.
        self._groups.remove(group)
        try:
            if not group.delivered:
                self._deliver(batch_so_far(group))
        finally:
            self._drop(group)

    def _drop(self, group: SequenceGroup) -> None:
        if group in self._groups:
            self._groups.remove(group)
        if self._generation is not None and group in self._generation.groups:
            self._generation.groups.remove(group)
        self._spare = group.release()


def _check_outside(site: str) -> None:
    """A site fired outside a forward pass of the model."""
    # People apply the head or a norm by hand, as a logit lens does; a block that runs by itself is a mistake, unless
    # the backward pass runs it again, which is what gradient checkpointing does.
    is_block = "layer_" in site.partition(":")[0] or site.endswith("embeddings")
    if is_block and torch._C._current_graph_task_id() == -1:
        raise CaptureError(
            f"{site} ran outside a forward pass of the recorded model; call the model itself, not a part of it, "
            "or give the part to the recorder"
        )


def _cache_of(output: Any) -> Any:
    cache = output.get("past_key_values") if isinstance(output, dict) else getattr(output, "past_key_values", None)
    if cache is None and isinstance(output, tuple | list):
        cache = next((item for item in output if hasattr(item, "get_seq_length")), None)
    return cache
