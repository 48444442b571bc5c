"""Strategy `hooks`: forward hooks on the very modules that compute the sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from actframe.capture.attached import Attached
from actframe.capture.base import CaptureStrategy, Emit
from actframe.capture.layout import ModelLayout, Place
from actframe.capture.sites import INPUT, MODULE
from actframe.capture.wrappers import wrapped
from actframe.errors import CaptureError

__all__ = ["ForwardHooks"]


class ForwardHooks(CaptureStrategy):
    """Takes every site of the layout, and any module's output or input."""

    name = "hooks"
    takes_modules = True

    def available(self, model: nn.Module, layout: ModelLayout) -> list[str]:
        """Every site of the layout; attention patterns only where the kernel computes them."""
        return [site for site in layout.places if self.refusal(site, model, layout) is None]

    def refusal(self, site: str, model: nn.Module, layout: ModelLayout) -> str | None:
        """Attention patterns need eager attention; other kernels never hold them in memory."""
        if layout.places[site].axes != "pattern":
            return None
        kernel = getattr(getattr(wrapped(model)[1], "config", None), "_attn_implementation", None)
        if kernel != "eager":
            return (
                f"needs eager attention, and this model runs {kernel!r}, which never computes the pattern; "
                "load it with attn_implementation='eager'"
            )
        return None

    @contextmanager
    def attach(self, model: nn.Module, layout: ModelLayout, sites: Sequence[str], emit: Emit) -> Iterator[None]:
        handles: list[Any] = []
        try:
            for site in sites:
                place = _place(site, layout)
                module = model.get_submodule(place.module)
                if place.side == "input":
                    hook = Attached(module, _input_hook(site, emit))
                    handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    hook = Attached(module, _output_hook(site, place.item, emit))
                    handles.append(module.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _place(site: str, layout: ModelLayout) -> Place:
    if not site.startswith(MODULE):
        return layout.places[site]
    path = site.removeprefix(MODULE)
    return Place(path.removesuffix(INPUT), "input" if path.endswith(INPUT) else "output")


def _output_hook(site: str, item: int, emit: Emit) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, tuple | list):
            output = output[item]
        emit(site, _tensor(output, site))

    return hook


def _input_hook(site: str, emit: Emit) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
        emit(site, _tensor(given, site))

    return hook


def _tensor(value: Any, site: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict) and value:
        return _tensor(next(iter(value.values())), site)
    raise CaptureError(f"{site} is not a tensor in this model but {type(value).__name__}")
