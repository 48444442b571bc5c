"""What is attached to a model while it is recorded, made so that copies of the model carry none of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from actframe.capture.compiled import call_uncompiled, never_compiled
from actframe.errors import CaptureError

__all__ = ["Attached"]


class Attached:
    """A hook on one module. On a copy of that module, or after a pickle of it is loaded, it does nothing.

    Args:
        module: the module that it is registered on.
        function: called as the hook; what it does is never compiled.
        whole: whether the module is to run as it is written, for what is inside it is recorded.

    Raises:
        CaptureError: when called, if such a module runs compiled, or on a replica that DataParallel made of it.
    """

    def __init__(self, module: nn.Module, function: Callable[..., Any], *, whole: bool = False) -> None:
        self._module = module
        self._function = function
        self._whole = whole
        never_compiled(Attached.__call__, call_uncompiled)

    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        if module is not self._module:
            # Said where a pass begins; later hooks of the same pass have nothing to add.
            if self._whole and getattr(module, "_is_replica", False):
                raise CaptureError(
                    f"DataParallel runs copies of this {type(self._module).__name__} on several devices at once, whose "
                    "records cannot be put together; run the model itself (data_parallel.module), or one process for "
                    "each device"
                )
            return None
        return call_uncompiled(self._function, module, arguments, whole=self._whole)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _inert, ()


def _inert() -> Callable[..., None]:
    return inert


def inert(*_: Any) -> None:
    """What a hook of ours becomes in a copy of the model."""
