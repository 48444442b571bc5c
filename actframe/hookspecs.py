"""The hooks a plugin may implement. Mark yours with `actframe.hookimpl`.

A plugin is a module named by an entry point in the group `actframe`. Keep that module light: import what is
heavy inside the hook, so that `actframe --help` stays fast with the plugin installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from actframe.capture.layout import ModelLayout
    from actframe.extension import Extension
    from actframe.records.record import ActivationRecord

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("actframe")
hookimpl = pluggy.HookimplMarker("actframe")


@hookspec
def extensions() -> Iterable[type[Extension]]:  # type: ignore[empty-body]
    """Return the extension classes that this plugin provides. Called once, at the first look-up."""


@hookspec(firstresult=True)
def model_layout(model: Any) -> ModelLayout | None:
    """Return the layout of a model that the structural rule gets wrong, or None to leave it to others."""


@hookspec
def record_captured(record: ActivationRecord) -> None:
    """Called with each record as its sequence closes, before the sink gets it."""


@hookspec
def register_commands(cli: Any) -> None:
    """Add commands to the `typer.Typer` application that `actframe` runs."""
