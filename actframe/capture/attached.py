"""What is attached to a model while it is recorded, made so that copies of the model carry none of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["Attached"]


class Attached:
    """A hook on one module. On a copy of that module, or after a pickle of it is loaded, it does nothing.

    Args:
        module: the module that it is registered on.
        function: called as the hook.
    """

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self._module = module
        self._function = function

    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        return self._function(module, *arguments) if module is self._module else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _inert, ()


def _inert() -> Callable[..., None]:
    return inert


def inert(*_: Any) -> None:
    """What a hook of ours becomes in a copy of the model."""
