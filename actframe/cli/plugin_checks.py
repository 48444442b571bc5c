"""`actframe plugins --check`: does an installed extension keep the promises of its contract?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from actframe.cli import tables
from actframe.cli.console import announce, one_line, print_json, stdout
from actframe.distributions import normalised
from actframe.errors import ActframeError, PluginError, UnknownNameError, nearest, needs_extra
from actframe.extension import Extension
from actframe.registry import Plugin, Registry

if TYPE_CHECKING:
    from actframe.testing.checking import SuiteReport

__all__ = ["check_plugins"]

_COLOURS = {"ok": "green", "failed": "bold red"}


@dataclass
class _Checked:
    """An extension, and what its suite said; or why there is nothing that it could say."""

    plugin: Plugin
    extension: type[Extension]
    report: SuiteReport | None = None
    refused: str = ""

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok

    @property
    def title(self) -> str:
        return f"{self.extension.kind} {self.extension.name!r} of plugin {self.plugin}"


def check_plugins(name: str, installed: Registry, *, as_json: bool) -> None:
    """Run the suites on what is called so and print what they found; exit with 1 where something is wrong."""
    with needs_extra("actframe plugins --check", "pytest", "testing"):
        import pytest  # noqa: F401
    chosen, problems = _chosen(name, installed)
    found = [_check(plugin, extension, name) for plugin, extension in chosen]
    if as_json:
        print_json({"checked": [_as_json(each) for each in found], "problems": problems})
    else:
        for each in found:
            _print(each)
        for problem in problems:
            stdout().print(Text.assemble(("refused: ", "bold red"), one_line(problem)), soft_wrap=True)
    if problems or not all(each.ok for each in found):
        raise typer.Exit(1)


def _chosen(name: str, installed: Registry) -> tuple[list[tuple[Plugin, type[Extension]]], list[str]]:
    """The extensions that a name means, and what is wrong with the plugin that it means.

    Raises:
        UnknownNameError: nothing is called so.
        PluginError: it is a plugin that failed, or provides nothing that could be checked.
    """
    plugins = installed.plugins()
    named = [plugin for plugin in plugins if name == plugin.name or normalised(name) == normalised(plugin.distribution)]
    plain = name.partition(":")[0]
    pairs = [(plugin, each) for plugin in plugins for each in plugin.extensions]
    chosen = [(plugin, each) for plugin, each in pairs if plugin in named or (not named and each.name == plain)]
    problems = [f"plugin {plugin}: {said}" for plugin in named for said in installed.problems(plugin)]
    if chosen:
        return chosen, problems
    if problems:
        raise PluginError("; ".join(problems))
    if named:
        raise PluginError(f"plugin {named[0]} provides no extensions, and its hooks have no suite")
    known = {text for plugin in plugins for text in (plugin.name, plugin.distribution)} | {e.name for _, e in pairs}
    raise UnknownNameError(
        f"no plugin, distribution or extension named {name!r}{nearest(name, known)}; `actframe plugins` lists them."
        f"{installed.failed()}"
    )


def _check(plugin: Plugin, extension: type[Extension], name: str) -> _Checked:
    from actframe.testing.checking import has_suite, run_suite

    checked = _Checked(plugin, extension)
    if not has_suite(extension):
        checked.refused = f"there is no suite for a {extension.kind}"
        return checked
    try:
        make = _maker(extension, name)
    except ActframeError as error:
        checked.refused = str(error)
        return checked
    announce(f"checking {checked.title}")
    checked.report = run_suite(extension, make)
    return checked


def _maker(extension: type[Extension], name: str) -> Callable[[], Any]:
    """What makes the extension. A benchmark is opened as on the command line, and must have questions.

    Raises:
        ActframeError: it does not open as it was named.
    """
    from actframe.benchmarks.base import BenchmarkAdapter, BenchmarkOptions

    if not issubclass(extension, BenchmarkAdapter):
        return extension
    plain, _, task = name.partition(":")
    options = BenchmarkOptions(task=task if plain == extension.name and task else None)
    adapter = extension.open(options)
    next(iter(adapter.questions()), None)
    return lambda: adapter


def _print(checked: _Checked) -> None:
    console = stdout()
    if checked.report is None:
        console.print(Text(one_line(checked.title), style="bold"))
        console.print(Text.assemble(("not checked: ", "bold red"), one_line(checked.refused)), soft_wrap=True)
        console.print()
        return
    table = tables.new_table(one_line(checked.title), "check", "result", "what is wrong")
    for each in checked.report.outcomes.values():
        table.add_row(
            Text(one_line(each.check)), Text(each.result, _COLOURS.get(each.result, "dim")), Text(one_line(each.said))
        )
    console.print(table)
    console.print(Text.assemble(*_verdict(checked.report)), soft_wrap=True)
    console.print()


def _verdict(report: SuiteReport) -> Iterator[str | tuple[str, str]]:
    results = [each.result for each in report.outcomes.values()]
    failed, skipped = results.count("failed"), results.count("skipped")
    if not report.ok:
        yield f"{failed} of {len(results)} checks failed" if failed else "nothing was checked", "bold red"
        return
    yield "keeps its contract", "bold green"
    yield f": {results.count('ok')} checks" + (f"; {skipped} skipped" if skipped else "")


def _as_json(checked: _Checked) -> dict[str, Any]:
    return {
        "kind": checked.extension.kind,
        "name": checked.extension.name,
        "plugin": checked.plugin.name,
        "distribution": checked.plugin.distribution,
        "version": checked.plugin.version,
        "ok": checked.ok,
        "refused": checked.refused or None,
        "checks": checked.report.as_json() if checked.report else [],
    }
