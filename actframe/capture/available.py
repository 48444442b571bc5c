"""Which sites a model gives to a strategy, and where each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from actframe.capture.base import CaptureStrategy
from actframe.capture.by_hand import checked_layout, checked_stacks
from actframe.capture.layout import ModelLayout, Place, find_layout
from actframe.capture.modules import module_places
from actframe.capture.parallel import refusal_of_a_part
from actframe.capture.selection import Selection
from actframe.capture.sites import MODULE
from actframe.capture.wrappers import moved, root_around, wrapped
from actframe.errors import LayoutError, PluginError
from actframe.registry import registry

__all__ = ["available_sites", "find_strategy", "layout_for", "layout_of", "refused_sites", "selected_places"]


def find_strategy(name: str) -> CaptureStrategy:
    """The capture strategy of that name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    return registry().find(CaptureStrategy, name)()  # type: ignore[type-abstract]


def available_sites(model: nn.Module, strategy: str = "hooks", layout: ModelLayout | None = None) -> list[str]:
    """The sites that a strategy can take from a model, beside `module:<dotted path>`, in the model's order."""
    return list(find_strategy(strategy).available(model, layout or layout_of(model)))


def refused_sites(model: nn.Module, strategy: str = "hooks", layout: ModelLayout | None = None) -> dict[str, str]:
    """The sites that a model has and a strategy cannot take from it as it is loaded, each with the reason."""
    taker, layout = find_strategy(strategy), layout or layout_of(model)
    available = set(taker.available(model, layout))
    refused = {site: taker.refusal(site, model, layout) for site in layout.places if site not in available}
    reasons = {site: reason or f"is not what strategy {strategy!r} can take" for site, reason in refused.items()}
    return reasons | {site: _untold(reason) for site, reason in layout.refused.items()}


def layout_of(
    model: nn.Module, layout: ModelLayout | None = None, blocks: str | Mapping[str, str] | None = None
) -> ModelLayout:
    """Where a model's parts are: as the caller says, else as a plugin says, else as its structure says.

    Args:
        model: whose parts.
        layout: the caller's own, checked against the model.
        blocks: dotted path of the list of blocks, or of each tower's by site prefix; the rest is found from there.

    Raises:
        LayoutError: the caller names what the model does not have, or the structure can be read in two ways.
    """
    if layout is not None and blocks is not None:
        raise LayoutError("layout= says where the blocks are, and blocks= too; give one of them")
    if layout is not None:
        return checked_layout(model, layout)
    if blocks is not None:
        return find_layout(model, checked_stacks(model, blocks))
    if (described := _described_by_a_plugin(model)) is not None:
        return described
    path, inner = wrapped(model)
    if not path:
        return find_layout(model)
    return moved(_described_by_a_plugin(inner) or find_layout(inner), path, root_around(model, path))


def _described_by_a_plugin(model: nn.Module) -> ModelLayout | None:
    plugins = registry()
    for plugin, layout in plugins.call_each("model_layout", model=model):
        if isinstance(layout, ModelLayout):
            return layout
        if layout is not None:
            error = PluginError(f"model_layout() returned {layout!r:.200}: return a ModelLayout, or None")
            plugins.fail(plugin, error, "model_layout")
    return None


def layout_for(
    selection: Selection,
    model: nn.Module,
    layout: ModelLayout | None = None,
    blocks: str | Mapping[str, str] | None = None,
) -> ModelLayout:
    """The layout that a selection needs, as `layout_of` finds it. `module:` sites alone need none.

    Raises:
        LayoutError: as `layout_of`; or no blocks were found, and the default selection is of their outputs.
    """
    sites = [selection.sites] if isinstance(selection.sites, str | int) else selection.sites
    try:
        found = layout_of(model, layout, blocks)
    except LayoutError:
        by_path = sites is not None and all(isinstance(site, str) and site.startswith(MODULE) for site in sites)
        if by_path and layout is None and blocks is None:
            return ModelLayout()
        raise
    if sites is None and not found.places:
        raise LayoutError(
            f"no list of blocks was found in {type(model).__name__}, whose outputs are recorded where nothing is "
            "selected; name it (blocks='path.to.the.list'), or select module:<dotted path> sites"
        )
    return found


def selected_places(
    selection: Selection, model: nn.Module, layout: ModelLayout, strategy: CaptureStrategy
) -> dict[str, Place]:
    """The place of each selected site, in the model's order."""
    modules = module_places(model, layout) if _names_modules(selection) else {}
    available = set(strategy.available(model, layout))

    def refusal(site: str) -> str | None:
        if site in modules and modules[site].axes == "routed":
            return "is one of several experts, which see some of the tokens, in an order of their own"
        if site in modules and (reason := refusal_of_a_part(site, model, layout, modules[site])) is not None:
            return reason
        if site in available or (site in modules and strategy.takes_modules):
            return None
        if site in layout.refused:
            return _untold(layout.refused[site])
        reason = strategy.refusal(site, model, layout) if site in layout.places else None
        return reason or f"is not what strategy {strategy.name!r} can take; use strategy='hooks'"

    places = {**layout.places, **modules}
    known = [*layout.places, *layout.refused, *modules]
    return {site: places[site] for site in selection.resolve(known, refusal)}


def _untold(reason: str) -> str:
    return f"cannot be told in this model: {reason}; record {MODULE}<dotted path> of what you mean"


def _names_modules(selection: Selection) -> bool:
    sites = selection.sites
    named = [sites] if isinstance(sites, str) else sites if isinstance(sites, Sequence) else []
    return any(isinstance(site, str) and site.startswith(MODULE) for site in named)
