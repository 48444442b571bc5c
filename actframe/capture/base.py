"""CaptureStrategy, the contract of a way to take tensors out of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from actframe.extension import Extension

if TYPE_CHECKING:
    from torch import Tensor, nn

    from actframe.capture.layout import ModelLayout

__all__ = ["CaptureStrategy", "Emit"]

Emit = Callable[[str, "Tensor"], None]
"""Takes a site's name and its tensor, as the model computed it, on the model's device."""


class CaptureStrategy(Extension, ABC):
    """Takes tensors out of a model while it runs.

    A strategy knows nothing of sequences, selections or storage: during each forward pass it calls `emit` once for
    each site, and never changes what the model returns. What it emits is copied before `emit` returns. It emits the
    model's own tensor, not a detached one: gradients are taken from it.
    """

    kind: ClassVar[str] = "capture strategy"
    contract_version: ClassVar[int] = 1
    takes_modules: ClassVar[bool] = False
    """Whether `attach` accepts `module:<dotted path>` sites, with `@input` at the end for the module's input."""

    @abstractmethod
    def available(self, model: nn.Module, layout: ModelLayout) -> Sequence[str]:
        """The sites of the layout that this strategy can take from the model as it is loaded, in layout order."""

    def refusal(self, site: str, model: nn.Module, layout: ModelLayout) -> str | None:
        """Why a site of the layout is not available, and what to do; None where there is nothing to say."""
        return None

    @abstractmethod
    def attach(
        self, model: nn.Module, layout: ModelLayout, sites: Sequence[str], emit: Emit
    ) -> AbstractContextManager[Any]:
        """Begin to emit these sites; leaving the context removes every trace from the model, whatever happened."""
