"""Strategy `output_hidden_states`: the hidden states that transformers itself returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actframe.capture.attached import Attached
from actframe.capture.base import CaptureStrategy, Emit
from actframe.capture.layout import ModelLayout, Tower
from actframe.capture.site_hooks import hook_sites
from actframe.errors import CaptureError

__all__ = ["OutputHiddenStates"]

_REQUEST = "output_hidden_states"


class OutputHiddenStates(CaptureStrategy):
    """Asks each forward pass for its hidden states, and takes them out of what it returns.

    Transformers gives the residual stream before each block, and after the last one either the raw stream or, in most
    models, what the final norm made of it. So this strategy offers `embeddings`, `layer_0` .. `layer_{L-2}`, and as the
    last state `final_norm` where the module that holds the blocks ends in a norm, `layer_{L-1}` where the tower has no
    final norm at all, and neither where the norm stands elsewhere and the state could be either. That each state is
    what it is offered as is checked in each pass: it must be what passed by at the place of its site. Some models
    return their states shifted by one, or those of another tower.
    """

    name = "output_hidden_states"

    def available(self, model: nn.Module, layout: ModelLayout) -> list[str]:
        # Towers beside the language model have their states from forwards that many models write by hand.
        own = [tower for tower in layout.towers if tower.prefix not in layout.beside]
        towers = [tower for tower in own if _can_be_asked(model.get_submodule(tower.root))]
        sites = {site for tower in towers for site in _states(tower) if site is not None}
        return [site for site, place in layout.places.items() if site in sites and place.axes == "residual"]

    def refusal(self, site: str, model: nn.Module, layout: ModelLayout) -> str | None:
        if layout.places[site].axes not in ("residual", "logits", "pattern"):
            return (
                "is not laid out as (batch, pos, d_model) in this model, and transformers may return it with other "
                "axes than the block gives; use strategy='hooks'"
            )
        if any(site == f"{tower.prefix}layer_{len(tower.blocks) - 1}" for tower in layout.towers):
            return (
                "is not what transformers returns as the last hidden state, which is after the final norm; "
                "use strategy='hooks', which takes it as the block gives it"
            )
        return "is not among the hidden states that transformers returns; use strategy='hooks'"

    @contextmanager
    def attach(self, model: nn.Module, layout: ModelLayout, sites: Sequence[str], emit: Emit) -> Iterator[None]:
        handles: list[Any] = []
        witnesses = ExitStack()
        try:
            for tower in layout.towers:
                wanted = [site if site in sites else None for site in _states(tower)]
                if any(wanted):
                    asked = _Request(wanted, emit)
                    root = model.get_submodule(tower.root)
                    witnesses.enter_context(hook_sites(model, layout, list(filter(None, wanted)), asked.see))
                    handles.append(root.register_forward_pre_hook(Attached(root, asked.ask), with_kwargs=True))
                    # Who asked last takes first, and leaves what it was not the first to ask for.
                    hook = Attached(root, asked.receive)
                    handles.append(root.register_forward_hook(hook, with_kwargs=True, prepend=True))
            yield
        finally:
            witnesses.close()
            for handle in handles:
                handle.remove()


class _Request:
    """Asks one tower for its hidden states, emits them, and gives the caller only what the caller asked for."""

    def __init__(self, wanted: list[str | None], emit: Emit) -> None:
        self._wanted = wanted
        self._emit = emit
        self._restore: Callable[[Any], Any] = _unchanged
        self._seen: dict[str, Tensor] = {}

    def see(self, site: str, tensor: Tensor) -> None:
        """Take in what passes by at the place of a site."""
        self._seen[site] = tensor

    def ask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        config = getattr(module, "config", None)
        asked = kwargs.get(_REQUEST)
        visible = getattr(config, _REQUEST, False) if asked is None else asked
        form = kwargs.get("return_dict")
        as_dict = bool(getattr(config, "return_dict", True) if form is None else form)
        self._restore = _restorer(visible, as_dict)
        return args, {**kwargs, _REQUEST: True, "return_dict": True}

    def receive(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        states = output.get("hidden_states")
        if states is None or len(states) != len(self._wanted):
            raise CaptureError(
                f"{type(module).__name__} returned {0 if states is None else len(states)} hidden states where its "
                f"{len(self._wanted) - 1} blocks make {len(self._wanted)}; use strategy='hooks'"
            )
        seen, self._seen = self._seen, {}
        for number, (site, state) in enumerate(zip(self._wanted, states, strict=True)):
            if site is not None:
                if not _is_same(seen.get(site), state):
                    which = "the last hidden state" if number == len(states) - 1 else f"hidden state {number}"
                    raise CaptureError(
                        f"{which} that {type(module).__name__} returns is not its {site}; "
                        "leave it out, or use strategy='hooks'"
                    )
                self._emit(site, state)
        return self._restore(output)


def _is_same(seen: Tensor | None, state: Tensor) -> bool:
    """Whether a state is what was seen: the same memory, as in most models, or the same numbers."""
    if seen is None or seen.numel() != state.numel():
        return False
    return seen.data_ptr() == state.data_ptr() or (seen.shape == state.shape and torch.equal(seen, state))


def _can_be_asked(module: nn.Module) -> bool:
    """Whether a module's forward takes the request, and not only its ids."""
    parameters = inspect.signature(module.forward).parameters
    return _REQUEST in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _states(tower: Tower) -> list[str | None]:
    """The site of each returned hidden state; None where it cannot be told what the state is."""
    last = f"layer_{len(tower.blocks) - 1}" if tower.final_norm is None else "final_norm"
    sites = ["embeddings", *(f"layer_{index}" for index in range(len(tower.blocks) - 1))]
    final = None if tower.final_norm is not None and not tower.norm_in_stack else tower.prefix + last
    return [*(tower.prefix + site for site in sites), final]


def _restorer(visible: bool | Collection[int], as_dict: bool) -> Callable[[Any], Any]:
    """What turns the output into the one that the caller would have had without us.

    Args:
        visible: what the caller asked for: all hidden states, none, or those of some indices.
        as_dict: whether the caller gets a dictionary, not a tuple.
    """

    def restore(output: Any) -> Any:
        if visible is not True:
            output = type(output)(**_with_states(output, visible or ()))
        return output if as_dict else output.to_tuple()

    return restore


def _with_states(output: Any, indices: Collection[int]) -> dict[str, Any]:
    """The fields of an output with the hidden states of some indices; the others are None, as transformers has it."""
    fields = dict(output.items())
    states = fields.pop("hidden_states")
    wanted = {index % len(states) for index in indices}
    if wanted:
        fields["hidden_states"] = tuple(state if index in wanted else None for index, state in enumerate(states))
    return fields


def _unchanged(output: Any) -> Any:
    return output
