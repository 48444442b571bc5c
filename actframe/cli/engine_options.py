"""`--engine`, and the options that engines bring with them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from actframe.errors import PluginError, SettingsError, UnknownNameError
from actframe.registry import registry
from actframe.runs.engines import ExecutionEngine, LocalEngine

if TYPE_CHECKING:
    from actframe.runs.models import LoadedModel

__all__ = ["Engine", "EngineCommand", "chosen_engine", "load_for"]

_CLASS, _CHOSEN = "actframe.engine_class", "actframe.engine"

Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where it runs: local, or an engine of a plugin; `--engine NAME --help` shows the options of that.",
        rich_help_panel="What to run",
    ),
]


class EngineCommand(TyperCommand):
    """A command that has, beside its own options, those of the engine that is asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        kind = _find(_named(args))
        ctx.meta[_CLASS] = kind
        rest = super().parse_args(ctx, args)
        own = {option.name: ctx.params.pop(option.name) for option in _fields(kind)}
        try:
            ctx.meta[_CHOSEN] = kind(**own)
        except SettingsError as error:
            raise typer.BadParameter(str(error)) from error
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        return [*_options(ctx.meta.get(_CLASS)), *super().get_params(ctx)]


def chosen_engine(context: typer.Context) -> ExecutionEngine:
    """The engine of a command, with its options."""
    engine: ExecutionEngine = context.meta[_CHOSEN]
    return engine


def load_for(engine: ExecutionEngine, model: str, device: str | None) -> LoadedModel:
    """A model for a run: where it computes in this process on its device, and else on the CPU.

    Workers elsewhere load it for themselves; here it is only asked how prompts are encoded and how large records are.
    """
    from actframe.runs.models import load_model

    if engine.in_process:
        return load_model(model, device=device)
    loaded = load_model(model, device="cpu")
    assert loaded.source is not None
    return dataclasses.replace(loaded, source=dataclasses.replace(loaded.source, device=device))


def _named(args: list[str]) -> str:
    """The value of `--engine`, before anything else is read."""
    for place, text in enumerate(args):
        if text == "--engine" and place + 1 < len(args):
            return args[place + 1]
        if text.startswith("--engine="):
            return text.partition("=")[2]
    return LocalEngine.name


def _find(name: str) -> type[ExecutionEngine]:
    if name == LocalEngine.name:
        # Nobody can shadow it, and help is answered without loading plugins.
        return LocalEngine
    try:
        return registry().find(ExecutionEngine, name)  # type: ignore[type-abstract]
    except (UnknownNameError, PluginError) as error:
        raise typer.BadParameter(str(error), param_hint="'--engine'") from error


def _fields(kind: type[ExecutionEngine]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


def _options(kind: type[ExecutionEngine] | None) -> list[Any]:
    """The fields of an engine as options of a command: typer makes them of a function that has them as parameters."""
    if kind is None or not _fields(kind):
        return []
    types = typing.get_type_hints(kind)
    parameters = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=Annotated[
                types[option.name],
                typer.Option(
                    help=option.metadata.get("help"),
                    metavar=option.metadata.get("metavar"),
                    show_default=option.default is not None,
                    rich_help_panel=f"Engine {kind.name}",
                ),
            ],
        )
        for option in _fields(kind)
    ]

    def offer(**_: Any) -> None:
        """Only its parameters are wanted."""

    offer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    offer.__annotations__ = {each.name: each.annotation for each in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(offer)
    command: Any = get_command(app)
    return list(command.params)
