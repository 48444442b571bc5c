"""ActivationRecorder: a `with` block around any code that runs a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn

from actframe.capture.base import CaptureStrategy
from actframe.capture.generation import Finished
from actframe.capture.layout import ModelLayout, Place, find_layout
from actframe.capture.selection import Selection, Sites
from actframe.capture.sequence import known_ids
from actframe.capture.session import Session
from actframe.capture.sites import INPUT, MODULE
from actframe.capture.watch import watch
from actframe.errors import CaptureError
from actframe.records.record import ActivationRecord
from actframe.registry import registry
from actframe.storage.files import save_activations

__all__ = ["ActivationRecorder", "Sink", "available_sites"]


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

    Raises:
        UnknownNameError: no such strategy.
        SiteError, SelectionError, LayoutError: the selection does not fit the model.
        CaptureError: when the block ends, if none of the selected sites ran; inside it, if what was captured would
            not be what the model computed.
    """

    def __init__(
        self,
        model: nn.Module,
        select: Selection | Sites | None = None,
        *,
        strategy: str = "hooks",
        tokenizer: Any = None,
        into: Sink | None = None,
    ) -> None:
        if into is not None and not hasattr(into, "append"):
            raise CaptureError(f"into= takes anything with append(record), not {type(into).__name__}")
        self.model = model
        self.selection = Selection.of(select)
        self._strategy = registry().find(CaptureStrategy, strategy)()  # type: ignore[type-abstract]
        self._layout = _layout_of(model)
        self._sites = _selected(self.selection, model, self._layout, self._strategy)
        self._tokenizer = tokenizer
        self._into = into
        self._records: list[ActivationRecord] = []
        self._latest: list[ActivationRecord] = []
        self._session: Session | None = None
        self._stack = ExitStack()
        self._circumstances: dict[str, Any] = {}

    @property
    def sites(self) -> list[str]:
        """The names of the sites that are recorded."""
        return list(self._sites)

    @property
    def records(self) -> list[ActivationRecord]:
        """One record for each sequence, oldest first, those still open as far as they have come."""
        still_open = self._session.open_sequences() if self._session is not None and self._into is None else []
        return [*self._records, *map(self._record, still_open)]

    @property
    def activations(self) -> dict[str, Tensor]:
        """The latest sequences: site -> `(batch, pos, d_model)`, rows shorter than the longest padded with zeros."""
        growing = self._session.latest() if self._session is not None else []
        latest = [self._record(row) for row in growing] or self._latest
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

    def __enter__(self) -> ActivationRecorder:
        if self._session is not None:
            raise CaptureError("this recorder is recording already; use a second recorder inside its block")
        self._circumstances = _circumstances(self.model, self._strategy.name)
        session = Session(self._layout, self._sites, self.selection, self._deliver)
        with ExitStack() as stack:
            stack.enter_context(watch(self.model, session))
            _hook_begins(self.model, self._layout, session, stack)
            stack.enter_context(self._strategy.attach(self.model, self._layout, list(self._sites), session.emit))
            _hook_ends(self.model, self._layout, session, stack)
            self._stack = stack.pop_all()
        self._session = session
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
        if error is None and not session.fired:
            ran = f"the model ran {session.forwards} times" if session.forwards else "the model did not run"
            raise CaptureError(
                f"none of the selected sites fired: {ran} inside the block. Sites: {', '.join(self._sites)}. Check "
                "that the recorder was given the very model that runs, and that it was not compiled before"
            )

    def _deliver(self, rows: list[Finished]) -> None:
        self._latest = []
        for row in rows:
            record = self._record(row)
            for _ in registry().call_each("record_captured", record=record):
                pass
            self._latest.append(record)
            (self._records if self._into is None else self._into).append(record)

    def _record(self, row: Finished) -> ActivationRecord:
        """The record of one finished sequence; its tensors are new."""
        group, encoder = row.group, row.group.encoder
        tensors, positions, exceptions = group.activations(row.row, row.length)
        input_ids = row.input_ids
        if encoder is not None:
            # The encoder's rows come first in the model, and each serves as many rows of the decoder.
            source = row.row * encoder.rows // group.rows
            input_ids = known_ids(encoder.tokens[source])
            before, own, _ = encoder.activations(source, len(encoder.tokens[source]))
            tensors = {**before, **tensors}
            exceptions = {**dict.fromkeys(before, own), **exceptions}
        tensors = {site: tensors[site] for site in self._sites if site in tensors}
        return ActivationRecord(
            {
                "prompt": self._decode(input_ids, keep_special=True),
                "response": self._decode(row.output_ids, keep_special=False) if row.output_ids else None,
                "input_ids": input_ids,
                "output_ids": row.output_ids,
                "positions": positions,
                "site_positions": exceptions,
                "prompt_length": group.prompt_lengths[row.row],
                "batch_size": group.rows,
                "sites": list(tensors),
                "timestamp": datetime.now(UTC).isoformat(),
                **self._circumstances,
                "activations": tensors,
            }
        )

    def _decode(self, ids: list[int], *, keep_special: bool) -> str | None:
        if self._tokenizer is None:
            return None
        return str(self._tokenizer.decode(ids, skip_special_tokens=not keep_special))


def _circumstances(model: Any, strategy: str) -> dict[str, Any]:
    """What every record of one block says of how it was computed."""
    parameter = next(model.parameters(), None)
    dtype = getattr(model, "dtype", parameter.dtype if parameter is not None else torch.get_default_dtype())
    return {
        "model": getattr(model, "name_or_path", "") or type(model).__name__,
        "strategy": strategy,
        "dtype": str(dtype).removeprefix("torch."),
        "attn_implementation": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "recorded": "live",
        "actframe_version": metadata.version("actframe"),
        "torch_version": str(torch.__version__),
        "transformers_version": transformers.__version__,
    }


def available_sites(model: nn.Module, strategy: str = "hooks") -> list[str]:
    """The sites that a strategy can take from a model, beside `module:<dotted path>`, in the model's order."""
    taker = registry().find(CaptureStrategy, strategy)()  # type: ignore[type-abstract]
    return list(taker.available(model, _layout_of(model)))


def _layout_of(model: nn.Module) -> ModelLayout:
    """What a plugin says of the model's parts, else what its structure says."""
    for _, layout in registry().call_each("model_layout", model=model):
        if isinstance(layout, ModelLayout):
            return layout
    return find_layout(model)


def _selected(
    selection: Selection, model: nn.Module, layout: ModelLayout, strategy: CaptureStrategy
) -> dict[str, Place]:
    """The place of each selected site, in the model's order."""
    modules = _module_places(model, layout) if _names_modules(selection) else {}
    available = set(strategy.available(model, layout))

    def refusal(site: str) -> str | None:
        if site in available or (site in modules and strategy.takes_modules):
            return None
        reason = strategy.refusal(site, model, layout) if site in layout.places else None
        return reason or f"is not what strategy {strategy.name!r} can take; use strategy='hooks'"

    places = {**layout.places, **modules}
    return {site: places[site] for site in selection.resolve(list(places), refusal)}


def _names_modules(selection: Selection) -> bool:
    sites = selection.sites
    named = [sites] if isinstance(sites, str) else sites if isinstance(sites, Sequence) else []
    return any(isinstance(site, str) and site.startswith(MODULE) for site in named)


def _module_places(model: nn.Module, layout: ModelLayout) -> dict[str, Place]:
    """Every module's output and input as a site, each in the tower that the module belongs to."""
    main = layout.towers[-1].prefix if layout.towers else ""
    places = {}
    for path, _ in model.named_modules():
        inside = [t.prefix for t in layout.towers if t.root and f"{path}.".startswith(f"{t.root}.")]
        tower = inside[0] if inside else main
        places[f"{MODULE}{path}"] = Place(path, tower=tower)
        places[f"{MODULE}{path}{INPUT}"] = Place(path, "input", tower=tower)
    return places


def _hook_begins(model: nn.Module, layout: ModelLayout, session: Session, stack: ExitStack) -> None:
    """Tell the session when each tower's forward begins, with the arguments that it gets."""
    for prefix, root in _roots(layout):
        module = model.get_submodule(root)
        hook = _begin_hook(prefix, session)
        stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def _hook_ends(model: nn.Module, layout: ModelLayout, session: Session, stack: ExitStack) -> None:
    """Tell the session when each tower's forward is over, after the strategy has seen its output.

    The main tower's lasts as long as the whole model's: the head comes after it.
    """
    for prefix, root in _roots(layout):
        module = model if prefix == session.main else model.get_submodule(root)
        hook = _end_hook(prefix, session)
        stack.callback(module.register_forward_hook(hook, always_call=True).remove)


def _roots(layout: ModelLayout) -> list[tuple[str, str]]:
    return [(tower.prefix, tower.root) for tower in layout.towers] or [("", "")]


def _begin_hook(tower: str, session: Session) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        session.begin(tower, module, args, kwargs)

    return hook


def _end_hook(tower: str, session: Session) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        session.end(tower, output)

    return hook


def _shared_sites(records: list[ActivationRecord]) -> list[str]:
    return [site for site in records[0].activations if all(site in r.activations for r in records)] if records else []


def _stack(rows: list[Tensor]) -> Tensor:
    """Stack tensors that differ in length, each padded with zeros at the end of every axis."""
    shape = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    stacked = rows[0].new_zeros((len(rows), *shape))
    for target, row in zip(stacked, rows, strict=True):
        target[tuple(slice(size) for size in row.shape)] = row
    return stacked
