"""The command that prints the results of runs, and compares them."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actframe.cli import result_tables, tables
from actframe.cli.console import announce, one_line, print_json, print_path, stdout
from actframe.cli.options import AsJson
from actframe.cli.store_paths import open_folder
from actframe.errors import BenchmarkError

if TYPE_CHECKING:
    from actframe.runs.comparison import Comparison
    from actframe.runs.statistics import Summary
    from actframe.runs.stored_results import StoredResults

__all__ = ["results"]

_SUMMARY_COLUMNS = (
    *("questions", "answers", "trials", "complete", "accuracy", "standard_error", "low", "high", "interval", "macro"),
    *("chance", "unparsed", "truncated", "majority", "agreement"),
)
_RUN_COLUMNS = ("tokens_per_second", "seconds", "too_long")


def results(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORES",
            help="One run or several: stores, also behind URLs, or folders that --layout files wrote.",
            show_default=False,
        ),
    ],
    by_subject: Annotated[bool, typer.Option("--by-subject", help="A row for each subject as well.")] = False,
    table: Annotated[
        str | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Write a row for each run, and each of its subjects. A file that is there is replaced; - is stdout.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the results of a run, or of several and how far they differ from the first.

    Runs that answered the same questions are compared question by question. Only answers are read, never activations,
    so it is quick, and works while a run goes on.
    """
    if table == "-" and as_json:
        raise typer.BadParameter("both want stdout; give --csv a file", param_hint="'--csv -' and '--json'")
    for store in stores:
        _check(store)
    announce("reading answers")
    from actframe.runs.stored_results import read_results

    runs = read_results(*stores)
    named = dict(zip(result_tables.letters(runs), runs, strict=True))
    if table is not None:
        _write_csv(table, runs)
    if as_json:
        print_json(_as_json(runs))
    elif table != "-":
        _print_runs(named, by_subject)
        _print_differences(named)
        if table is not None:
            print_path(table, "\nwrote ")


def _check(path: str) -> None:
    """See that there is a store, or the answers of a run with the layout `files`."""
    from actframe.storage.folders import store_folder

    if os.path.isfile(path) or "answers.jsonl" not in store_folder(path).sizes(""):
        # Of what is no store, this says what it is.
        open_folder(path)


def _print_runs(runs: dict[str, StoredResults], by_subject: bool) -> None:
    console = stdout()
    if len(runs) == 1:
        ((_, run),) = runs.items()
        print_path(run.location)
        title = f"{one_line(run.benchmark or 'a benchmark')}, answered by {one_line(run.model or 'a model')}"
        console.print(tables.results_table(title, run.result, by_subject=by_subject))
        console.print()
    else:
        console.print(result_tables.runs_table(runs))
        console.print()
        summaries = {letter: run.result.summary for letter, run in runs.items()}
        known = {letter: summary for letter, summary in summaries.items() if summary is not None}
        console.print(tables.accuracy_table("", "", known, None))
        console.print()
        for letter, run in runs.items() if by_subject else ():
            console.print(tables.results_table(f"{letter}, by subject", run.result))
            console.print()
    console.print(result_tables.figures_table({letter: run.result for letter, run in runs.items()}))


def _print_differences(runs: dict[str, StoredResults]) -> None:
    if len(runs) == 1:
        return
    console = stdout()
    found: dict[str, Comparison] = {}
    notes: list[str] = []
    first, *others = runs.values()
    for (label, difference), second in zip(_differences(runs), others, strict=True):
        if not isinstance(difference, BenchmarkError):
            notes += result_tables.describe_settings(label, first, second)
        if isinstance(difference, BenchmarkError):
            notes.append(f"{label}: {difference}")
        else:
            found[label] = difference
            notes += result_tables.describe_difference(label, difference)
    console.print()
    if found:
        console.print(result_tables.differences_table(found))
    for note in notes:
        console.print(one_line(note), soft_wrap=True, markup=False)


def _differences(runs: dict[str, StoredResults]) -> Iterator[tuple[str, Comparison | BenchmarkError]]:
    """Each run against the first, or why it is not compared."""
    from actframe.runs.stored_results import compare_results

    (letter, first), *others = runs.items()
    for other, second in others:
        try:
            yield f"{other} - {letter}", compare_results(first, second)
        except BenchmarkError as error:
            yield f"{other} - {letter}", error


def _as_json(runs: Sequence[StoredResults]) -> dict[str, Any]:
    differences = []
    named = {str(at): run for at, run in enumerate(runs)}
    for at, (_, difference) in enumerate(_differences(named), start=1):
        refused = str(difference) if isinstance(difference, BenchmarkError) else None
        said = {} if isinstance(difference, BenchmarkError) else asdict(difference)
        differences.append({"first_run": 0, "second_run": at, "refused": refused, **said})
    return {"runs": [run.as_json() for run in runs], "differences": differences}


def _write_csv(path: str, runs: Sequence[StoredResults]) -> None:
    rows = [row for run in runs for row in _csv_rows(run)]
    columns = ["store", "benchmark", "model", "subject", *_SUMMARY_COLUMNS, *_RUN_COLUMNS]
    # How many of them there are depends on the runs.
    more = {name for row in rows for name in row} - set(columns)
    columns += sorted(more, key=lambda name: (not name.startswith("pass@"), len(name) if "pass@" in name else 0, name))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if path == "-":
        sys.stdout.write(text.getvalue())
        sys.stdout.flush()
        return
    from actframe.storage.atomic import replacing

    with replacing(Path(path), ".csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _csv_rows(run: StoredResults) -> Iterator[dict[str, Any]]:
    """The whole run, whose subject is empty; then each subject."""
    names = {"store": run.location, "benchmark": run.benchmark, "model": run.model}
    said = run.result.circumstances
    more = {name: said.get(name) for name in _RUN_COLUMNS} | {"too_long": len(said.get("too_long") or ())}
    if run.result.summary is not None:
        yield {**names, "subject": "", **_csv_cells(run.result.summary), **more}
    for subject, summary in run.result.by_subject.items():
        yield {**names, "subject": subject, **_csv_cells(summary)}


def _csv_cells(summary: Summary) -> dict[str, Any]:
    cells = {name: getattr(summary, name) for name in _SUMMARY_COLUMNS} | summary.pass_at
    for name, metric in summary.metrics.items():
        # Some metric may be called as a figure of ours is.
        cells |= {f"metrics.{name}": metric.mean, f"metrics.{name}.standard_error": metric.standard_error}
    return cells
