"""The application: which commands there are, how they fail, and where plugins add theirs."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from actframe.cli import (
    capture,
    console,
    convert,
    demo,
    export,
    files,
    inspect_,
    plugins,
    questions,
    results,
    run,
    selftest,
    stores,
)
from actframe.cli.engine_options import EngineCommand
from actframe.errors import ActframeError, PluginError
from actframe.registry import Registry, registry

__all__ = ["add_plugin_commands", "app", "main"]

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class CommandGroup(TyperGroup):
    """Runs a command, and turns what went wrong into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ActframeError, OSError) as error:
            if ctx.params.get("debug") or getattr(error, "errno", None) == errno.EPIPE:
                raise
            console.print_error(error)
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                raise
            console.stderr().print("interrupted", style="red")
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _with_dashes(name: str) -> str:
    """Flags may be written with underscores, as the parameters of the Python functions are."""
    return name.replace("_", "-")


app = typer.Typer(
    name="actframe",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "token_normalize_func": _with_dashes},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"actframe {metadata.version('actframe')}")
        raise typer.Exit


@app.callback()
def _actframe(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="ACTFRAME_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Record what happens inside a transformer while it works. Begin with [bold]actframe demo[/bold].

    Flags may be written with dashes or underscores.

    Exit codes: 0 done, 1 the work failed, 2 the command was not understood, 130 interrupted.
    """


app.command("demo")(demo.demo)
app.command("run", cls=EngineCommand)(run.run)
app.command("capture", cls=EngineCommand)(capture.capture)
_LOOK, _KEEP, _FIND = "Look at what was recorded", "Keep stores", "Find out what there is"
app.command("results", rich_help_panel=_LOOK)(results.results)
app.command("show", rich_help_panel=_LOOK)(files.show)
app.command("stats", rich_help_panel=_LOOK)(files.stats)
app.command("compare", rich_help_panel=_LOOK)(files.compare)
app.command("ls", rich_help_panel=_KEEP)(stores.ls)
app.command("convert", rich_help_panel=_KEEP)(convert.convert)
app.command("merge", rich_help_panel=_KEEP)(stores.merge)
app.command("export", rich_help_panel=_KEEP)(export.export)
app.command("verify", rich_help_panel=_KEEP)(stores.verify)
app.command("repair", rich_help_panel=_KEEP)(stores.repair)
app.command("questions", rich_help_panel=_FIND)(questions.questions)
app.command("sites", rich_help_panel=_FIND)(inspect_.sites)
app.command("selftest", rich_help_panel=_FIND)(selftest.selftest)
app.command("plugins", rich_help_panel=_FIND)(plugins.plugins)


def add_plugin_commands(cli: TyperGroup, installed: Registry) -> None:
    """Add what each plugin registers; one that wants a name that is taken is kept as a failure and adds nothing."""
    offered = typer.Typer()
    for plugin, _ in installed.call_each("register_commands", cli=offered):
        try:
            commands = get_group(offered).commands
            if taken := sorted(commands.keys() & cli.commands.keys()):
                raise PluginError(f"its command {taken[0]!r} has the name of another command")
            cli.commands.update(commands)
        except Exception as error:
            installed.fail(plugin, error, "register_commands")
        finally:
            offered.registered_commands.clear()
            offered.registered_groups.clear()


def main() -> None:
    """Run the command line of this process: the entry point `actframe`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = console.show_warning
    if sys.argv[1:2] == ["plugins"]:
        # Its list says of each what is wrong with it, and once is enough.
        warnings.filterwarnings("ignore", "actframe plugin ", RuntimeWarning)
    cli = get_command(app)
    assert isinstance(cli, TyperGroup)
    add_plugin_commands(cli, registry())
    try:
        cli.main(prog_name="actframe")
    finally:
        _flush()


def _flush() -> None:
    """Write what is left now, because a reader that has gone away (`| head`) is an error at interpreter exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
