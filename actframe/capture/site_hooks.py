"""Forward hooks on the modules that compute sites."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from actframe.capture.attached import Attached
from actframe.capture.base import Emit
from actframe.capture.layout import ModelLayout, Place
from actframe.capture.sites import INPUT, MODULE
from actframe.errors import CaptureError

__all__ = ["hook_sites"]


@contextmanager
def hook_sites(model: nn.Module, layout: ModelLayout, sites: Sequence[str], emit: Emit) -> Iterator[None]:
    """Emit the tensor of each site when its module runs, until the context is left."""
    handles: list[Any] = []
    counters: dict[str, _Counter] = {}
    try:
        for site in sites:
            place = _place(site, layout)
            module = model.get_submodule(place.module)
            own = emit
            if place.calls > 1:
                if place.module not in counters:
                    counters[place.module] = _Counter(place)
                    handles += counters[place.module].attach(model, layout)
                own = counters[place.module].at(place.call, emit)
            if place.side == "input":
                hook = Attached(module, _input_hook(site, own))
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                hook = Attached(module, _output_hook(site, place.item, own))
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Counter:
    """Which call of a module this is in a forward pass, for blocks that a model runs again and again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._number = -1

    def attach(self, model: nn.Module, layout: ModelLayout) -> list[Any]:
        """Count the module's calls from now on, anew in each forward pass of its tower."""
        roots = [tower.root for tower in layout.towers if tower.prefix == self._place.tower]
        root, module = model.get_submodule(roots[0] if roots else ""), model.get_submodule(self._place.module)
        return [
            root.register_forward_pre_hook(Attached(root, self._begin)),
            module.register_forward_pre_hook(Attached(module, self._count)),
        ]

    def at(self, call: int, emit: Emit) -> Emit:
        """Emit at this call alone."""
        return lambda site, tensor: emit(site, tensor) if self._number == call else None

    def _begin(self, *_: Any) -> None:
        self._number = -1

    def _count(self, *_: Any) -> None:
        self._number += 1
        if self._number >= self._place.calls:
            raise CaptureError(
                f"{self._place.module} ran more than {self._place.calls} times in one forward pass, which is how often "
                "its configuration says; name what to record as module:<dotted path> sites"
            )


def _place(site: str, layout: ModelLayout) -> Place:
    if not site.startswith(MODULE):
        return layout.places[site]
    path = site.removeprefix(MODULE)
    return Place(path.removesuffix(INPUT), "input" if path.endswith(INPUT) else "output")


def _output_hook(site: str, item: int, emit: Emit) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, tuple | list):
            if not -len(output) <= item < len(output):
                raise CaptureError(
                    f"{site} is item {item} of what {type(module).__name__} gives, and it gave {len(output)}"
                )
            output = output[item]
        elif item:
            raise CaptureError(f"{site} is item {item} of what {type(module).__name__} gives, and it gave one tensor")
        emit(site, output if type(output) is Tensor else _tensor(output, site))

    return hook


def _input_hook(site: str, emit: Emit) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        emit(site, _tensor(args[0] if args else _first(module, kwargs), site))

    return hook


def _first(module: nn.Module, kwargs: dict[str, Any]) -> Any:
    """What a module that is called with keywords alone gets for its first parameter, in whatever order they come."""
    names = [next(iter(inspect.signature(module.forward).parameters), ""), "hidden_states", *kwargs]
    return next((kwargs[name] for name in names if name in kwargs), None)


def _tensor(value: Any, site: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict) and value:
        return _tensor(next(iter(value.values())), site)
    raise CaptureError(f"{site} is not a tensor in this model but {type(value).__name__}")
