"""The command selftest: is a model recorded right?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from actframe.capture.sites import summarise
from actframe.cli import tables
from actframe.cli.console import announce, one_line, print_json, stdout
from actframe.cli.options import AsJson

if TYPE_CHECKING:
    from actframe.testing.proofs.report import Check, SelfTestReport, Way

__all__ = ["selftest"]

_COLOURS = {"ok": "green", "exact": "green", "note": "yellow", "refused": "yellow", "failed": "bold red"}


def selftest(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A hub id, a folder, a GGUF file, or smollm2.", show_default=False)
    ],
    strategy: Annotated[str, typer.Option("--strategy", metavar="NAME", help="The capture strategy.")] = "hooks",
    as_json: AsJson = False,
) -> None:
    """Prove on a short prompt that a model is recorded right: bit for bit what plain hooks see, at the right positions.

    Tries the ways of generating, and says of each whether it is exact or refused. The exit code is 1 when anything that
    was recorded is wrong; the first difference says where.
    """
    announce(f"loading {model}")
    from actframe.runs.models import load_model
    from actframe.testing.proofs.selftest import selftest as run_selftest

    report = run_selftest(load_model(model), strategy=strategy, told=announce)
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: SelfTestReport) -> None:
    console = stdout()
    console.print(tables.facts_table("", dict(_facts(report))))
    for title, found in (("Checks", report.checks), ("Ways of running it", report.ways)):
        if found:
            table = tables.new_table(title, "", "", "")
            table.show_header = False
            for each in found:
                said = one_line(str(each.difference or each.said))
                table.add_row(Text(each.name), Text(each.status, _COLOURS.get(each.status, "dim")), Text(said))
            console.print()
            console.print(table)
    console.print()
    console.print(_verdict(report), soft_wrap=True)


def _facts(of: SelfTestReport) -> Iterator[tuple[str, str]]:
    kernel = f", {of.attn_implementation} attention" if of.attn_implementation else ""
    yield "model", one_line(f"{of.model}: {of.model_class}, {of.dtype} on {of.device}{kernel}")
    yield "strategy", of.strategy
    yield "run on", of.inputs
    yield "sites", f"{len(of.sites)}: {summarise(of.sites)}"
    yield "taken at", one_line("; ".join(f"{site} {path}" for site, path in of.places.items()))
    reasons: dict[str, list[str]] = {}
    for site, reason in of.refused.items():
        reasons.setdefault(reason, []).append(site)
    for reason, sites in reasons.items():
        yield "refused", one_line(f"{summarise(sites)}: {reason}")


def _verdict(of: SelfTestReport) -> Text:
    failure: Check | Way | None = of.first_failure
    if failure is not None:
        return Text.assemble((f"wrong: {failure.name}: ", "bold red"), one_line(str(failure.difference)))
    exact = sum(way.status == "exact" for way in of.ways)
    refused = sum(way.status == "refused" for way in of.ways)
    ways = f"; {exact} ways of running it are exact" if of.ways else ""
    ways += f", {refused} refused" if refused else ""
    return Text.assemble(("recorded right", "bold green"), ways)
