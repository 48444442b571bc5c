"""ActivationRecorder: a `with` block around any code that runs a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, Unpack
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from actframe.capture.available import find_strategy, layout_for, selected_places
from actframe.capture.base import Emit
from actframe.capture.batches import RecordedSequence, known_ids
from actframe.capture.compiled import refuse_compiled_inside
from actframe.capture.gathering import RowActivations
from actframe.capture.given_order import Numbered, Waiting, in_given_order
from actframe.capture.gradients import Training, TrainingOptions
from actframe.capture.groups import Groups
from actframe.capture.layout import ModelLayout
from actframe.capture.media import media_positions, placeholders
from actframe.capture.parallel import is_first_of_its_group
from actframe.capture.passes import hook_begins, hook_ends
from actframe.capture.receipt import Circumstances, describe_places, versions
from actframe.capture.selection import Scratch, Selection, Sites
from actframe.capture.session import Session
from actframe.capture.watch import watch
from actframe.capture.wrappers import wrapped
from actframe.errors import CaptureError
from actframe.records.record import ActivationRecord
from actframe.registry import registry
from actframe.storage.files import save_activations

__all__ = ["ActivationRecorder", "Sink"]


_warm: WeakKeyDictionary[nn.Module, Scratch] = WeakKeyDictionary()
"""Memory of a model's last recording, at most `Scratch.KEPT_BYTES`, for its next one."""


class Sink(Protocol):
    """Where records go: a list, a store, a filter of your own."""

    def append(self, record: ActivationRecord, /) -> Any: ...


class ActivationRecorder:
    """Records what a model computes while the block runs, whatever code runs it.

        with ActivationRecorder(model, tokenizer=tokenizer) as recorder:
            model.generate(**inputs, max_new_tokens=32)
        recorder.activations["layer_0"]     # (batch, pos, d_model), on CPU

    Every sequence becomes one `ActivationRecord`, unpadded. `generate` closes its sequences when it returns; a bare
    forward pass, or a loop that calls the model by hand, closes them when a new sequence begins and their KV cache is
    gone, or when the block ends. Recording changes no output.

    Args:
        model: the module whose forward takes the ids (the outermost one), on any device.
        select: what to record: None for embeddings and all layers, a layer, a site or pattern, a list of these, or a
            `Selection`.
        strategy: the capture strategy's name.
        tokenizer: decodes prompts and responses; without it they are None.
        into: gets each record as its sequence closes, so that memory stays flat; without it they gather in `records`.
            Where several processes compute one model, the first of them hands its records over, and no other.
        layout: where the model's parts are, where you know better than the structural rule.
        blocks: dotted path of the list of blocks, where the rest can be found from there; of a model of several towers,
            the path of each by the prefix of its sites: `{"vision.": "visual.blocks", "": "model.layers"}`.
        training: `keep_graph=True` leaves the tensors attached to the autograd graph, on the model's device, so that a
            loss on them can be sent back through the model; their records keep the graph alive. `gradients=True`
            records the gradient at each site, `layer_3@grad` beside `layer_3`, which `backward()` inside the block
            brings; a sequence is delivered when it has them all.

    Raises:
        UnknownNameError: no such strategy.
        SiteError, SelectionError, LayoutError: the selection does not fit the model.
        CaptureError: when the block ends, if none of the selected sites ran; inside it, if what was captured would
            not be what the model computed; where a gradient was asked for and has not come, or a graph and there is
            none.
    """

    recorded: ClassVar[str] = "live"
    """What records say of how they came to be."""

    def __init__(
        self,
        model: nn.Module,
        select: Selection | Sites | None = None,
        *,
        strategy: str = "hooks",
        tokenizer: Any = None,
        into: Sink | None = None,
        layout: ModelLayout | None = None,
        blocks: str | Mapping[str, str] | None = None,
        **training: Unpack[TrainingOptions],
    ) -> None:
        if into is not None and not hasattr(into, "append"):
            raise CaptureError(f"into= takes anything with append(record), not {type(into).__name__}")
        self.model = model
        self._inner: Any = wrapped(model)[1]
        self.selection = Selection.of(select)
        self._strategy = find_strategy(strategy)
        self._layout = layout_for(self.selection, model, layout, blocks)
        self._sites = selected_places(self.selection, model, self._layout, self._strategy)
        self._places = describe_places(self._sites)
        self._placeholders = placeholders(getattr(self._inner, "config", None))
        self._training = Training.of(model, training)
        self._names = self._training.names(self._sites)
        self._tokenizer = tokenizer
        self._into = into
        self._records: list[Numbered] = []
        self._waiting = Waiting(self._hand_over)
        self._entered = 0
        self._latest: list[ActivationRecord] = []
        self._session: Session | None = None
        self._stack = ExitStack()

    @property
    def sites(self) -> list[str]:
        """The names of the sites that are recorded."""
        return list(self._names)

    @property
    def records(self) -> list[ActivationRecord]:
        """One record for each sequence, in the order in which they began; those still open as far as they have come."""
        still_open = self._session.open_sequences() if self._session is not None and self._into is None else []
        records = [*self._records, *(pair for sequences in still_open for pair in self._numbered(sequences))]
        return [record for _, record in sorted(records, key=lambda begun_and_record: begun_and_record[0])]

    @property
    def activations(self) -> dict[str, Tensor]:
        """The latest sequences: site -> `(batch, pos, d_model)`, rows shorter than the longest padded with zeros."""
        growing = self._session.open_sequences() if self._session is not None else []
        latest = self._make(growing[-1]) if growing and growing[-1] else self._latest
        with self._training.reading():
            return {site: _stack([record.activations[site] for record in latest]) for site in _shared_sites(latest)}

    def save(self, path: str | Path) -> Path:
        """Save the one recorded sequence; the suffix of `path` chooses the format.

        Raises:
            CaptureError: there is not exactly one record here.
        """
        records = self.records
        if len(records) != 1:
            where = "they went to `into`" if self._into is not None else "save each with save_activations(record, path)"
            raise CaptureError(f"save() takes one recorded sequence, and there are {len(records)}; {where}")
        return save_activations(records[0], path)

    def __enter__(self) -> Self:
        if self._session is not None:
            raise CaptureError("this recorder is recording already; use a second recorder inside its block")
        describe = Circumstances(self._inner, self._places)
        groups = Groups(self.selection, _warm.pop(self.model, None), describe, self._training.rows)
        session = Session(self._layout, self._sites, groups, self._deliver)
        refuse_compiled_inside(self.model, self._layout, self._sites)
        with ExitStack() as stack:
            stack.callback(self._training.let_go)
            stack.enter_context(watch(self._inner, session))
            stack.enter_context(in_given_order(self.model, self._waiting, session.close))
            hook_begins(self.model, session, stack)
            emit = self._emit_into(session)
            stack.enter_context(self._strategy.attach(self.model, self._layout, list(self._sites), emit))
            hook_ends(self.model, session, stack)
            stack.callback(session.packed.halt)
            self._stack = stack.pop_all()
        self._session = session
        self._entered += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        session, self._session = self._session, None
        assert session is not None
        try:
            self._stack.close()
        finally:
            try:
                session.close()
            except Exception as failure:
                if error is None:
                    raise
                error.add_note(f"actframe could not deliver the sequences recorded before: {failure}")
        if (scratch := session.groups.take_scratch()) is not None:
            scratch.shrink()
            _warm[self.model] = scratch
        if error is None:
            self._check_fired(session)

    def _emit_into(self, session: Session) -> Emit:
        """Where the tensors of the strategy go."""
        return session.emit

    def _check_fired(self, session: Session) -> None:
        silent = [
            site
            for site, place in self._sites.items()
            if site not in session.fired and (place.tower in session.towers_run or not session.fired)
        ]
        if silent:
            ran = f"the model ran {session.forwards} times" if session.forwards else "the model did not run"
            which = "these" if session.fired else "none"
            raise CaptureError(
                f"{which} of the selected sites {'never ' if session.fired else ''}fired: {ran} inside the block. "
                f"Sites: {', '.join(silent)}. Check that the recorder was given the very model that runs, that these "
                "parts of it run, and that it was not compiled before"
            )

    def _numbered(self, sequences: list[RecordedSequence]) -> list[Numbered]:
        """The records of sequences that close together, each with when the first of them began."""
        begun = self._entered, min((each.group.number for each in sequences), default=0)
        return [(begun, record) for record in self._make(sequences)]

    def _deliver(self, sequences: list[RecordedSequence]) -> None:
        self._waiting.take(self._numbered(sequences))

    def _hand_over(self, numbered: list[Numbered]) -> None:
        self._latest = [record for _, record in numbered]
        for begun, record in numbered:
            for _ in registry().call_each("record_captured", record=record):
                pass
            if self._into is None:
                self._records.append((begun, record))
            elif is_first_of_its_group(self.model):
                self._into.append(record)

    def _make(self, sequences: list[RecordedSequence]) -> list[ActivationRecord]:
        """The records of some sequences; their tensors are nobody else's."""
        with self._training.reading():
            return [self._record(each, each.group.activations([each.chain])[0], _encoding(each)) for each in sequences]

    def _record(
        self, sequence: RecordedSequence, own: RowActivations, encoding: tuple[list[int], RowActivations] | None
    ) -> ActivationRecord:
        group, input_ids = sequence.group, sequence.input_ids
        found, exceptions = own.tensors, own.site_positions
        if encoding is not None:
            input_ids, encoded = encoding
            found = {**encoded.tensors, **found}
            exceptions = {**dict.fromkeys(encoded.tensors, encoded.positions), **exceptions}
        if list(found) != self._names:
            found = {site: found[site] for site in self._names if site in found}
        # Tokens that were given as embeddings have no ids, and the others would stand at the wrong positions.
        whole = encoding is not None or len(input_ids) == group.prompt_length(sequence.chain)
        ids = [*input_ids, *(sequence.output_ids if encoding is None else ())]
        media = media_positions(self._placeholders, ids) if whole else {}
        return ActivationRecord(
            {
                "prompt": self._decode(input_ids, keep_special=True),
                "response": self._decode(sequence.output_ids, keep_special=False) if sequence.output_ids else None,
                "model": getattr(self._inner, "name_or_path", "") or type(self._inner).__name__,
                "timestamp": datetime.now(UTC).isoformat(),
                "input_ids": input_ids,
                "output_ids": sequence.output_ids,
                "positions": own.positions,
                "site_positions": exceptions,
                "prompt_length": group.prompt_length(sequence.chain),
                **({"computed_before": before} if (before := group.computed_before(sequence.chain)) else {}),
                **({"media": media} if media else {}),
                "sites": list(found),
                "strategy": self._strategy.name,
                **group.circumstances,
                "batch_size": group.batch_size,
                "recorded": self.recorded,
                **versions(),
                "activations": found,
            }
        )

    def _decode(self, ids: list[int], *, keep_special: bool) -> str | None:
        if self._tokenizer is None:
            return None
        return str(self._tokenizer.decode(ids, skip_special_tokens=not keep_special))


def _encoding(sequence: RecordedSequence) -> tuple[list[int], RowActivations] | None:
    """The tokens and activations of what a sequence attends to, where the model has an encoder."""
    encoder = sequence.group.encoder
    if encoder is None:
        return None
    # Each of the encoder's rows serves as many sequences as any other.
    row = encoder.rows[sequence.origin * len(encoder.rows) // sequence.group.origins]
    chain = row.settled(encoder.columns)
    return known_ids(encoder.tokens(chain)), encoder.activations([chain])[0]


def _shared_sites(records: list[ActivationRecord]) -> list[str]:
    return [site for site in records[0].activations if all(site in r.activations for r in records)] if records else []


def _stack(rows: list[Tensor]) -> Tensor:
    """Stack tensors that differ in length, each padded with zeros at the end of every axis."""
    shape = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    stacked = rows[0].new_zeros((len(rows), *shape))
    for number, row in enumerate(rows):
        stacked[number][tuple(slice(size) for size in row.shape)] = row
    return stacked
