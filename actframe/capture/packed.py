"""What one recording follows of continuous batching: its managers, their requests, and the records of their answers.

A manager runs the model in a thread of its own, from its start to its stop. What it computes is kept until `stop` has
returned, as it does at the end of `generate_batch`: then every answered request becomes a record, in the order in which
the requests were given.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from actframe.capture.batches import RecordedSequence
from actframe.capture.calls import Call
from actframe.capture.columns import NOT_RUN
from actframe.capture.kept import Arrivals, KeptRows
from actframe.capture.paged import PagedRequests, Track
from actframe.capture.sequence import SequenceGroup
from actframe.errors import ActframeError, CaptureError

if TYPE_CHECKING:
    from actframe.capture.groups import Groups
    from actframe.capture.parts import Place

__all__ = ["PackedGroup", "PackedRuns", "RowsInAnyOrder"]


class _Chain(list[int]):
    """The columns of one request, and how many of them are prompt: packed requests have prompts of any length."""

    def __init__(self, columns: Sequence[int], prompt_length: int) -> None:
        super().__init__(columns)
        self.prompt_length = prompt_length


class RowsInAnyOrder(KeptRows):
    """Rows that are asked for in any order: a request may begin with one that was computed after those that follow."""

    def of(self, site: str, cells: list[int], **how: Any) -> tuple[Tensor, list[int] | None]:
        order = sorted(range(len(cells)), key=cells.__getitem__)
        if order == list(range(len(cells))):
            return super().of(site, cells, **how)
        rows, present = super().of(site, [cells[place] for place in order])
        places = order if present is None else [order[place] for place in present]
        back = sorted(range(len(places)), key=places.__getitem__)
        return rows[back], None if present is None else sorted(places)


class PackedGroup(SequenceGroup):
    """The requests of one manager, from its start to its stop."""

    def __init__(self, manager: Any, groups: Groups) -> None:
        super().__init__(*groups.beginning())
        if self.kept.is_of_training:
            raise CaptureError(
                "generate_batch computes without a graph, which keep_graph=True and gradients=True need; "
                "run it outside the block"
            )
        self.kept = RowsInAnyOrder(self.kept.release())
        self.requests = PagedRequests(manager, self._selection, self.columns)
        self.delivered = True  # nothing of it may be read before the manager stops
        self.origins = 1

    def open_call(self, given: Mapping[str, Any]) -> Call:
        """Take in what a packed forward pass computes, before its tensors come."""
        try:
            packed = self.requests.read(given)
        except (AttributeError, KeyError, TypeError) as error:
            raise _unknown_release(error) from error
        everything = len(packed.kept) == packed.width
        chosen = None if everything else torch.tensor(packed.kept, dtype=torch.long)
        self._arrivals = Arrivals(packed.first_cell, len(packed.kept), chosen)
        by_index = packed.predicting if isinstance(given.get("logits_to_keep"), Tensor) else None
        return Call(1, packed.width, logits_columns=by_index)

    def commit(self, cache: Any) -> None:
        """The call has returned; the paged cache is the manager's."""

    def is_over(self) -> bool:
        """Whether no later call can continue these sequences: only the manager's stop ends them."""
        return False

    def prompt_length(self, chain: Sequence[int]) -> int:
        """How many positions of a request are prompt."""
        assert isinstance(chain, _Chain)
        return chain.prompt_length

    def computed_before(self, chain: Sequence[int]) -> int:
        """How many positions of a request were computed before the recording began."""
        return sum(self.columns.cells[column] == NOT_RUN for column in chain)

    def answers(self, order: Mapping[str, int]) -> list[RecordedSequence]:
        """The requests that were answered, in the order in which they were given.

        Raises:
            CaptureError: one was not fed the tokens that it was answered with.
        """
        tracks = sorted(self.requests.take_answered(), key=lambda track: _place(track, order))
        self.batch_size = self.requests.largest
        found = []
        for track in tracks:
            assert track.answer is not None
            chain = _Chain(self.requests.chain_of(track), track.prompt_length)
            self.before = max(self.before, self.computed_before(chain))
            found.append(RecordedSequence(self, 0, chain, *track.answer))
        return found


def _place(track: Track, order: Mapping[str, int]) -> tuple[float, int, int]:
    """Where a request stands among others: as transformers arranges them, several answers to one prompt together."""
    parent, fork, number = track.name.partition("__child#")
    given = order.get(parent, float("inf"))
    return (given, 0, int(number)) if fork and number.isdigit() else (order.get(track.name, given), 1, 0)


class PackedRuns:
    """The managers of continuous batching that one recording follows; a `ManagerListener`.

    Args:
        groups: gives a group to each.
        places: the place of each selected site.
        deliver: takes the sequences of a manager that has stopped, in order.

    Attributes:
        concerns: whether this recording is the one of a model that the running thread gives to a manager.
        failure: why packed forward passes that nobody follows were refused, or None.
    """

    def __init__(
        self,
        groups: Groups,
        places: Mapping[str, Place],
        deliver: Callable[[list[RecordedSequence]], None],
    ) -> None:
        self.concerns: Callable[[nn.Module], bool] = _never
        self.failure: CaptureError | None = None
        self._groups = groups
        self._patterns = [site for site, place in places.items() if place.axes == "pattern"]
        self._deliver = deliver
        self._running: list[PackedGroup] = []
        self._order: dict[str, int] = {}
        self._numbers = itertools.count()
        self._waiting = ExitStack()

    def group_of(self, given: Mapping[str, Any]) -> PackedGroup | None:
        """The group of a forward pass that is packed; None if it is not.

        Raises:
            CaptureError: nobody follows the manager that packed it.
        """
        if given.get("cu_seq_lens_q") is None:
            return None
        for group in self._running:
            if group.requests.owns(given.get("cache")):
                return group
        self.failure = CaptureError(
            "several sequences were packed into one row, and cannot be told apart; only a manager of continuous "
            "batching can say whose is what, and one that starts inside the block: start it there"
        )
        raise self.failure

    def runs_this_thread(self) -> bool:
        """Whether the running thread is the one in which a followed manager runs the model."""
        if not self._running:
            return False
        thread = threading.current_thread()
        return any(group.requests.manager._generation_thread is thread for group in self._running)

    def halt(self) -> None:
        """Let managers that still run wait between two steps, while the recording is taken off the model."""
        for group in self._running:
            manager = group.requests.manager
            if manager.is_running():
                with suppress(RuntimeError):  # it came to its end meanwhile
                    self._waiting.enter_context(manager.pause())

    def go_on(self) -> None:
        """Let the managers that wait go on."""
        self._waiting.close()

    def holds(self, group: SequenceGroup) -> bool:
        """Whether a group is that of a manager which has not stopped."""
        return any(each is group for each in self._running)

    # What happens to managers.

    def manager_begins(self, manager: Any) -> None:
        """See `ManagerListener`.

        Raises:
            CaptureError: it packs, schedules or computes in a way that cannot be followed.
        """
        if not self.concerns(manager.model):
            return
        for part in ("continuous_batching_config", "background_thread_status", "output_router", "pause"):
            if not hasattr(manager, part):
                raise _unknown_release(f"its manager has no {part}")
        _refuse_what_cannot_be_followed(manager)
        if self._patterns:
            raise CaptureError(
                f"continuous batching computes attention over all of its paged cache, not {self._patterns[0]} of one "
                "sequence; leave it out of the selection, or use generate()"
            )
        if self._group(manager) is None:
            self._running = [*self._running, PackedGroup(manager, self._groups)]

    def requests_named(self, manager: Any, names: list[str]) -> None:
        """See `ManagerListener`."""
        if self._group(manager) is not None:
            for name in names:
                self._order[name] = next(self._numbers)

    def request_answered(self, router: Any, output: Any) -> None:
        """See `ManagerListener`."""
        for group in self._running:
            if group.requests.manager.output_router is router and output.is_finished():
                group.requests.answer(output)

    def manager_stopped(self, manager: Any) -> None:
        """See `ManagerListener`.

        Raises:
            CaptureError: what it computed could not be recorded.
        """
        group = self._group(manager)
        if group is not None and not manager.is_running():
            self._finish(group)

    def close(self) -> None:
        """The recording has ended.

        Raises:
            CaptureError: a manager still runs, with requests that are not answered; those that are were delivered.
        """
        unanswered: list[str] = []
        while self._running:
            group = self._running[0]
            if group.requests.manager.is_running():
                unanswered += group.requests.unanswered
            self._finish(group)
        if unanswered:
            raise CaptureError(
                f"the block ended while {len(unanswered)} requests of continuous batching were not answered; stop the "
                "manager inside the block, which waits for them"
            )
        if self.failure is not None:
            raise self.failure

    def _group(self, manager: Any) -> PackedGroup | None:
        return next((group for group in self._running if group.requests.manager is manager), None)

    def _finish(self, group: PackedGroup) -> None:
        """Deliver what a manager has answered."""
        manager = group.requests.manager
        # Taken off first: whoever gets the records may run the model again.
        self._running = [each for each in self._running if each is not group]
        # transformers catches what is raised in the manager's thread, and notes it in each answer.
        failure = manager.background_thread_status.fatal_error
        try:
            if isinstance(failure, ActframeError):
                raise failure
            if sequences := group.answers(self._order):
                self._deliver(sequences)
        finally:
            if not manager.is_running():  # else it may be writing to that memory
                self._groups.release(group)


def _never(model: nn.Module) -> bool:
    return False


def _unknown_release(what: object) -> CaptureError:
    return CaptureError(
        f"the continuous batching of transformers {transformers.__version__} is not laid out as in 5.23, from which it "
        f"can be followed ({what}); use generate() to record"
    )


def _refuse_what_cannot_be_followed(manager: Any) -> None:
    config = manager.continuous_batching_config
    if any(config.cuda_graph_booleans):
        raise CaptureError(
            "continuous batching replays CUDA graphs, which run no hooks; pass "
            "ContinuousBatchingConfig(use_cuda_graph=False) while recording"
        )
    if config.varlen_compile_config is not None or config.decode_compile_config is not None:
        raise CaptureError(
            "continuous batching compiles the model, and compiled code may run no hooks; pass no compile config while "
            "recording"
        )
    if config.use_async_batching:
        raise CaptureError(
            "asynchronous batching runs a request further before it is known whether that is wanted; pass "
            "ContinuousBatchingConfig(use_async_batching=False) while recording"
        )
    if config.cpu_offload_space and config.allow_block_sharing:
        raise CaptureError(
            "blocks of the paged cache that come back from the CPU and are then shared cannot be followed; pass "
            "ContinuousBatchingConfig(cpu_offload_space=0) or (allow_block_sharing=False) while recording"
        )
