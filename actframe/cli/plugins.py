"""`actframe plugins`: what is installed, where it comes from, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from actframe.cli import tables
from actframe.cli.console import one_line, print_json, printable, stdout
from actframe.cli.options import AsJson
from actframe.cli.plugin_checks import check_plugins
from actframe.registry import LIMIT_VARIABLE, Plugin, Registry, limited_to, registry

__all__ = ["plugins"]


def plugins(
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="NAME",
            help="Test what a plugin, distribution or extension does against its contract (benchmark:task where one "
            "needs a task). Needs pytest.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the installed extensions, where they come from, and what is wrong with plugins.

    With --check, hold what is installed under a name to what its contract promises. The exit code is 1 when something
    fails, or could not be checked.
    """
    installed = registry()
    if check is not None:
        check_plugins(check, installed, as_json=as_json)
        return
    found = installed.plugins()
    if as_json:
        print_json([_describe(plugin, installed) for plugin in found])
        return
    console = stdout()
    table = tables.new_table("Installed extensions", "kind", "name", "plugin", "distribution")
    for row in sorted(row for plugin in found for row in _rows(plugin, installed)):
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    _print_limit(console)
    _print_problems(console, {str(plugin): said for plugin in found if (said := installed.problems(plugin))})


def _rows(plugin: Plugin, installed: Registry) -> Iterator[tuple[str, str, str, str]]:
    """A row for each extension, and of the plugins of others for each hook that gives none."""
    origin = f"{plugin.distribution} {plugin.version}"
    for each in plugin.extensions:
        yield each.kind, each.name, plugin.name, origin
    for hook in _other_hooks(plugin, installed):
        yield "hook", hook, plugin.name, origin


def _other_hooks(plugin: Plugin, installed: Registry) -> list[str]:
    return [hook for hook in installed.hooks_of(plugin) if hook != "extensions"]


def _print_limit(console: Console) -> None:
    """Say that plugins may be missing because it was asked for."""
    limit = limited_to()
    if limit is None:
        return
    said = f"Only plugins of {', '.join(limit)} are loaded" if limit else "No plugins are loaded"
    console.print(Text(f"{said}, because {LIMIT_VARIABLE} is set.", style="dim"))


def _print_problems(console: Console, problems: dict[str, list[str]]) -> None:
    """Each plugin with its reasons below it, not in a table: they are sentences, and terminals are narrow."""
    if not problems:
        return
    console.print()
    console.print(Text("Plugins with problems", style="bold"))
    for plugin, said in problems.items():
        console.print(Text(one_line(plugin)))
        for each in said:
            console.print(Padding(Text(one_line(each), style="red"), (0, 0, 0, 4)))


def _describe(plugin: Plugin, installed: Registry) -> dict[str, Any]:
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "extensions": [{"kind": each.kind, "name": each.name} for each in plugin.extensions],
        "hooks": _other_hooks(plugin, installed),
        "problems": [one_line(each) for each in installed.problems(plugin)],
    }
