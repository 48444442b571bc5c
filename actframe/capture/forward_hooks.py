"""Strategy `hooks`: forward hooks on the very modules that compute the sites."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import nn

from actframe.capture.base import CaptureStrategy, Emit
from actframe.capture.layout import ModelLayout
from actframe.capture.parallel import refusal_of_a_part
from actframe.capture.site_hooks import hook_sites
from actframe.capture.wrappers import wrapped

__all__ = ["ForwardHooks"]


class ForwardHooks(CaptureStrategy):
    """Takes every site of the layout, and any module's output or input."""

    name = "hooks"
    takes_modules = True

    def available(self, model: nn.Module, layout: ModelLayout) -> list[str]:
        """Every site of the layout; attention patterns only where the kernel computes them."""
        return [site for site in layout.places if self.refusal(site, model, layout) is None]

    def refusal(self, site: str, model: nn.Module, layout: ModelLayout) -> str | None:
        """Attention patterns need eager attention; tensor-parallel models hold the inner parts of blocks in pieces."""
        place = layout.places[site]
        if (reason := refusal_of_a_part(site, model, layout, place)) is not None:
            return reason
        if place.axes != "pattern":
            return None
        kernel = getattr(getattr(wrapped(model)[1], "config", None), "_attn_implementation", None)
        if kernel != "eager":
            return (
                f"needs eager attention, and this model runs {kernel!r}, which never computes the pattern; "
                "load it with attn_implementation='eager'"
            )
        return None

    def attach(
        self, model: nn.Module, layout: ModelLayout, sites: Sequence[str], emit: Emit
    ) -> AbstractContextManager[None]:
        return hook_sites(model, layout, sites, emit)
