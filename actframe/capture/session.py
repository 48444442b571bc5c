"""What one `with` block has seen so far: open calls, sequences that grow, and those that are complete."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from actframe.capture.calls import Call, read_call
from actframe.capture.generation import Finished, Generation
from actframe.capture.layout import ModelLayout, Place
from actframe.capture.selection import Selection, SiteBuffer
from actframe.capture.sequence import SequenceGroup, known_ids
from actframe.capture.sites import MODULE
from actframe.errors import CaptureError

__all__ = ["Session"]

Deliver = Callable[[list[Finished]], None]


class Session:
    """Turns forward passes, emitted tensors and calls of `generate` into finished sequences.

    Args:
        layout: of the model.
        places: the place of each selected site.
        selection: what is kept of each tensor.
        deliver: takes the rows of a batch when their sequences close, in row order.
    """

    def __init__(self, layout: ModelLayout, places: dict[str, Place], selection: Selection, deliver: Deliver) -> None:
        prefixes = [tower.prefix for tower in layout.towers]
        self.main = prefixes[-1] if prefixes else ""
        self.fired: set[str] = set()
        self.forwards = 0
        self._places = places
        self._required: dict[str, list[str]] = {}
        for site, place in places.items():
            if not site.startswith(MODULE):
                self._required.setdefault(place.tower, []).append(site)
        self._selection = selection
        self._deliver = deliver
        self._groups: list[SequenceGroup] = []
        self._encoder: SequenceGroup | None = None
        self._attended = False
        self._open: dict[str, tuple[Call, SequenceGroup]] = {}
        self._thread: int | None = None
        self._generation: Generation | None = None
        self._spare: list[dict[str, SiteBuffer]] = []

    # A forward pass of one tower: begin, emit for each site, end.

    def begin(self, tower: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A tower's forward is about to run with these arguments."""
        if self._open and self._thread != threading.get_ident():
            raise CaptureError(
                "two threads ran this model at once inside one recording, and their activations cannot be told apart; "
                "run it from one thread at a time"
            )
        self._thread = threading.get_ident()
        self.forwards += 1
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
            self._emit_outside(site, place)
            return
        call, group = current
        if not call.width:
            call.rows, call.width = tensor.shape[0], tensor.shape[1] if tensor.ndim > 2 else 1
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
        """A tower's forward has returned; None where it raised, and then its sequences are given up."""
        current = self._open.pop(tower, None)
        if current is None:
            return
        call, group = current
        if output is None:
            self._drop(group)
            return
        missing = [site for site in self._required.get(tower, ()) if not call.fired[site]]
        if missing and self.fired:
            self._drop(group)
            raise CaptureError(
                f"{', '.join(missing)} did not run in a forward pass that should have run it; a record with holes is "
                "refused. Leave it out of the selection, or switch the skipping of layers off"
            )
        group.remember_cache(call.cache if call.cache is not None else _cache_of(output))

    def _emit_outside(self, site: str, place: Place) -> None:
        # People apply the head or a norm by hand, as a logit lens does; a block that runs by itself is a mistake.
        if "layer_" in site.partition(":")[0] or site.endswith("embeddings"):
            raise CaptureError(
                f"{site} ran outside a forward pass of the recorded model; call the model itself, not a part of it, "
                "or give the part to the recorder"
            )

    # Sequences: a call starts some, continues their cache, or recomputes them.

    def _group_of(self, call: Call, tower: str) -> SequenceGroup:
        if tower != self.main:
            self._close_encoder()
            self._encoder = self._new_group()
            return self._encoder
        for group in self._groups:
            if call.start and group.owns(call.cache):
                return group
        if call.start:
            raise CaptureError(
                f"a forward pass continues a KV cache of {call.start} positions that this recorder did not see being "
                "filled; begin the recording before the prompt is computed, or pass no past_key_values"
            )
        if self._generation is not None:
            for group in self._generation.groups:
                if group.recomputes(call):
                    return group
        self._close_finished(call)
        group = self._new_group()
        self._groups.append(group)
        if self._generation is not None:
            self._generation.groups.append(group)
        return group

    def _new_group(self) -> SequenceGroup:
        return SequenceGroup(self._selection, self._spare.pop() if self._spare else {})

    def _extend(self, call: Call, group: SequenceGroup, tower: str) -> None:
        if self._generation is not None and tower == self.main:
            if group not in self._generation.groups:
                self._generation.groups.append(group)
            group.extend(call, self._generation.prompt_lengths(call))
        else:
            group.extend(call, None)
        encoder = self._encoder
        if tower == self.main and group.encoder is None and encoder is not None and group.rows % encoder.rows == 0:
            group.encoder = encoder
            self._attended = True

    # Closing: what can no longer grow is delivered.

    def start_generation(self, generation: Generation) -> None:
        self._generation = generation

    def in_generation(self) -> bool:
        return self._generation is not None

    def finish_generation(self, result: Any) -> None:
        """`generate` has returned: deliver the rows of its answer, and forget what else ran meanwhile."""
        assert self._generation is not None
        generation, self._generation = self._generation, None
        try:
            finished = generation.finish(result)
            self._deliver(finished)
        finally:
            for group in generation.groups:
                self._drop(group)

    def abandon_generation(self) -> None:
        """`generate` raised: its sequences are given up."""
        if self._generation is not None:
            generation, self._generation = self._generation, None
            for group in generation.groups:
                self._drop(group)
            self._encoder = None
        self._open.clear()

    def close(self) -> None:
        """The block has ended: deliver every sequence that is still open."""
        for group in list(self._groups):
            self._close(group)
        self._close_encoder()

    def latest(self) -> list[Finished]:
        """The sequences that grew last and are still open, as far as they have come."""
        return _as_they_are(self._groups[-1]) if self._groups and self._groups[-1].rows else []

    def open_sequences(self) -> list[Finished]:
        """Every sequence that is still open, as far as it has come."""
        return [row for group in self._groups for row in _as_they_are(group)]

    def _close_finished(self, call: Call) -> None:
        """Deliver the sequences that no call can continue, now that a new one begins."""
        for group in list(self._groups):
            within = self._generation is not None and group in self._generation.groups
            if not within and (group.is_over() or group.owns(call.cache)):
                self._close(group)

    def _close(self, group: SequenceGroup) -> None:
        try:
            if group.rows:
                self._deliver(_as_they_are(group))
        finally:
            self._drop(group)

    def _close_encoder(self) -> None:
        """Deliver an encoder's rows by themselves where no decoder attended to them."""
        encoder, attended = self._encoder, self._attended
        self._encoder, self._attended = None, False
        if encoder is not None and encoder.rows and not attended:
            self._deliver(_as_they_are(encoder))

    def _drop(self, group: SequenceGroup) -> None:
        if group in self._groups:
            self._groups.remove(group)
        if group is self._encoder:
            self._encoder = None
        self._spare = [*self._spare[-1:], group.release()]


def _as_they_are(group: SequenceGroup) -> list[Finished]:
    """The rows of a group that nobody cut: a bare forward pass, or a loop that calls the model by hand."""
    return [
        Finished(group, row, known_ids(tokens[:length]), known_ids(tokens[length:]), len(tokens))
        for row, (tokens, length) in enumerate(zip(group.tokens, group.prompt_lengths, strict=True))
    ]


def _cache_of(output: Any) -> Any:
    cache = output.get("past_key_values") if isinstance(output, dict) else getattr(output, "past_key_values", None)
    if cache is None and isinstance(output, tuple | list):
        cache = next((item for item in output if hasattr(item, "get_seq_length")), None)
    return cache
