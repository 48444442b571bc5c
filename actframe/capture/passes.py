"""Where the forward pass of each tower begins and ends."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from actframe.capture.attached import Attached
from actframe.capture.layout import Tower
from actframe.capture.session import Session

__all__ = ["hook_begins", "hook_ends"]


_FRAMES = "_get_feature_vector_attention_mask"
"""What transformers' models of sound call the method that tells which frames are padding."""


def hook_begins(model: nn.Module, session: Session, stack: ExitStack) -> None:
    """Tell the session when the forward of each tower that it follows begins, with the arguments that it gets."""
    for tower in session.towers:
        module = model.get_submodule(tower.root)
        hook = Attached(module, _Begins(tower.prefix, session), whole=True)
        stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


class _Begins:
    """Tells a session of a tower's forward, with its arguments by name."""

    def __init__(self, prefix: str, session: Session) -> None:
        self._prefix = prefix
        self._session = session
        self._names: list[str] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            if self._names is None:
                self._names = list(inspect.signature(module.forward).parameters)
            kwargs = {**kwargs, **dict(zip((name for name in self._names if name not in kwargs), args, strict=False))}
        if _takes_sound(module, kwargs):
            kwargs = {**kwargs, "attention_mask": functools.partial(_frames, module, kwargs["attention_mask"])}
        features = kwargs.get("features")  # how sentence-transformers passes them on
        self._session.begin(self._prefix, {**kwargs, **features} if isinstance(features, Mapping) else kwargs)


def _takes_sound(module: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether a call gives samples of sound with a mask for these."""
    has_tokens = given.get("input_ids") is not None or given.get("inputs_embeds") is not None
    return given.get("attention_mask") is not None and not has_tokens and hasattr(module, _FRAMES)


def _frames(module: Any, mask: Tensor, width: int) -> Tensor:
    """The padding mask of the frames that a model makes of sound, from that of its samples."""
    if mask.shape[-1] == width:
        return mask
    make = getattr(module, _FRAMES)
    # Adapters come after the blocks, and make longer frames of theirs.
    options = {"add_adapter": False} if "add_adapter" in inspect.signature(make).parameters else {}
    frames: Tensor = make(width, mask, **options)
    return frames


def hook_ends(model: nn.Module, session: Session, stack: ExitStack) -> None:
    """Tell the session when each such tower's forward is over, after the strategy has seen its output."""
    for tower in session.towers:
        ends = _Ends(tower, session)
        span = model.get_submodule(tower.span)
        if tower.span != tower.root:
            # A decoder that is called by itself, without the model around it, ends with its own forward.
            root = model.get_submodule(tower.root)
            stack.callback(span.register_forward_pre_hook(Attached(span, ends.enter_span)).remove)
            stack.callback(root.register_forward_hook(Attached(root, ends.leave_root)).remove)
        stack.callback(span.register_forward_hook(Attached(span, ends.leave_span)).remove)
        stack.callback(span.register_forward_hook(Attached(span, ends.clean_up), always_call=True).remove)


class _Ends:
    """Where the forward of one tower ends: with its span, or with its root where that runs alone."""

    def __init__(self, tower: Tower, session: Session) -> None:
        self._prefix = tower.prefix
        self._session = session
        self._in_span = False

    def enter_span(self, module: nn.Module, args: Any) -> None:
        self._in_span = True

    def leave_root(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._in_span:
            self._session.end(self._prefix, output)

    def leave_span(self, module: nn.Module, args: Any, output: Any) -> None:
        self._session.end(self._prefix, output)

    def clean_up(self, module: nn.Module, args: Any, output: Any) -> None:
        self._in_span = False
        self._session.abort(self._prefix)
