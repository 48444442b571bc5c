"""How stores look on a terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.padding import Padding
from rich.text import Text

from actframe.cli.console import one_line, print_path, printable, stdout
from actframe.cli.tables import new_table

if TYPE_CHECKING:
    from actframe.storage.finding import FoundStore
    from actframe.storage.health import Problem, StoreReport
    from actframe.storage.identity import StoreIdentity
    from actframe.storage.repair import RepairReport
    from actframe.storage.survey import RecordName

__all__ = ["count", "local_time", "print_repairs", "print_report", "print_stores", "short", "sizes"]

_OTHER_COLUMNS = 50
"""What columns of a list of stores take whose width hardly changes, with the space between all of them."""

_LEAST_NAME = 10

_NAMED = 12
"""So many records are named; `--json` has all."""


def sizes(after: int, before: int) -> str:
    """Two sizes and their ratio.

    >>> sizes(1_000_000, 1_500_000), sizes(0, 0)
    ('1.0 MB, from 1.5 MB (1.50x)', '0 bytes, from 0 bytes')
    """
    ratio = f" ({before / after:.2f}x)" if after else ""
    return f"{decimal(after)}, from {decimal(before)}{ratio}"


def print_stores(folder: str, stores: Sequence[FoundStore]) -> None:
    """What `ls` found."""
    console, notes = stdout(), [_note(each) for each in stores]
    paths = [_relative(each.location, folder) for each in stores]
    columns = ["store", "model", "benchmark", "records", "size", "last write", *(["note"] if any(notes) else [])]
    total = sum(each.bytes for each in stores)
    table = new_table("", *columns, right=("records", "size"))
    table.caption = f"{count(len(stores), 'store')} with {decimal(total)}"
    table.columns[0].overflow = "fold"
    table.columns[5].no_wrap = True
    # A path that is folded is of less use than a name that is cut.
    room = console.width - _OTHER_COLUMNS - max(map(len, paths)) - max(map(len, notes))
    for column in table.columns[1:3]:
        column.max_width = max(_LEAST_NAME, room // 2)
    for each, path, note in zip(stores, paths, notes, strict=True):
        written = "-" if each.last_write is None else local_time(each.last_write)
        row = [Text(path, "cyan"), *map(_joined, (each.models, each.benchmarks))]
        row += [Text(f"{each.records:,}"), Text(decimal(each.bytes)), Text(written)]
        table.add_row(*row, *([Text(note, "red" if each.problem else "")] if any(notes) else []))
    console.print(table)
    for each, path in zip(stores, paths, strict=True):
        if each.problem:
            _print_block(path, one_line(each.problem), "red")


def local_time(moment: str) -> str:
    """A moment as a clock here shows it."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"


def short(text: str, longest: int = 200) -> Text:
    """As much as fits into the line. The column could be wrapped, so that others keep their width; the text is not."""
    return Text(one_line(text[:longest]), no_wrap=True, overflow="ellipsis")


def print_report(report: StoreReport) -> None:
    """What `verify` found."""
    console = stdout()
    print_path(report.location)
    shards = f"{count(report.shards, 'shard')}, {decimal(report.bytes)}"
    if report.ok:
        console.print(Text.assemble(f"{count(report.records, 'record')} in {shards}: ", ("sound", "bold green")))
    else:
        wrong = count(len(report.problems), "problem")
        console.print(Text.assemble(f"{count(report.records, 'sound record')} in {shards}: ", (wrong, "bold red")))
    if report.writing:
        console.print(f"{count(len(report.writing), 'process')} writing to it now; what comes is not looked at")
    for problem in report.problems:
        _print_problem(problem)


def print_repairs(report: RepairReport, identity: StoreIdentity | None) -> None:
    """What `repair` did, and how what is lost comes back."""
    console = stdout()
    print_path(report.location)
    if not report.changed and not report.left:
        console.print(Text.assemble("nothing to repair: ", ("sound", "bold green")))
        return
    if report.identity:
        _print_block("run.json", report.identity)
    for name, why in report.quarantined.items():
        _print_block(f"shards/{name}", f"moved to quarantine/{name}: {why}")
    for name in report.missing:
        _print_block(f"shards/{name}", "is not there any more; its lines were taken out of the ledger")
    for name in report.rewritten:
        _print_block(name, "written anew; what it was is in quarantine/")
    for each in report.left:
        name, _, why = each.partition(": ")
        _print_block(name, f"left as it is: {why}", "red")
    counts = [
        f"{count(report.restored, 'record')} got their ledger line back" if report.restored else "",
        f"{count(report.dropped, 'line')} taken out" if report.dropped else "",
    ]
    console.print()
    if any(counts):
        console.print(", ".join(filter(None, counts)))
    if report.lost:
        console.print(f"{count(len(report.lost), 'record')} lost", style="bold")
        console.print(Padding(Text(f"{_named(report.lost)}\n{_way_back(identity)}"), (0, 0, 0, 2)))
    if report.left:
        console.print("not everything could be put right", style="bold red")
    else:
        console.print(Text.assemble("the store is ", ("sound", "bold green"), " now"))


def _note(store: FoundStore) -> str:
    if store.problem:
        return "damaged"
    if store.writing:
        return "being written"
    if store.expected is not None and store.records < store.expected:
        return f"of {store.expected:,} answers"
    return ""


def _relative(location: str, folder: str) -> str:
    """A store's path as it is below the folder that was asked for, so that it can be used as it stands."""
    if "://" in location:
        return printable(location)
    return printable(os.path.normpath(os.path.join(folder, os.path.relpath(location, os.path.abspath(folder)))))


def _joined(names: Sequence[str]) -> Text:
    return short(", ".join(names[:_NAMED]) or "-", 60)


def _print_problem(problem: Problem) -> None:
    kind = {"line": "", "torn": "", "identity": ""}.get(problem.kind, f"{problem.kind}: ")
    said = f"{kind}{problem.why}"
    if problem.records:
        said += f"\n{count(len(problem.records), 'record')}: {_named(problem.records)}"
    _print_block(problem.file, said)


def _print_block(title: str, said: str, style: str = "") -> None:
    console = stdout()
    console.print(Text(one_line(title), "cyan"), soft_wrap=True)
    console.print(Padding(Text(printable(said), style), (0, 0, 0, 2)))


def _named(records: Sequence[RecordName]) -> str:
    shown = ", ".join(one_line(str(each)) for each in records[:_NAMED])
    more = len(records) - _NAMED
    return shown + (f", and {more:,} more" if more > 0 else "")


def _way_back(identity: StoreIdentity | None) -> str:
    """How lost records come back."""
    from actframe.storage.finding import expected_records

    if identity is None:
        return "What they were is in quarantine/."
    made: Mapping[str, Any] = identity.origin or {}
    if "converted" in made or "merged" in made:
        verb = "convert" if "converted" in made else "merge"
        return f"The same `actframe {verb}` command again fills the gap, and nothing else."
    if expected_records(identity.run) is not None:
        return "The same `actframe run` command again fills the gap, and nothing else."
    return "Record them again to have them back; the others need not be."


def count(number: int, noun: str) -> str:
    """A number of things."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural if number != 1 else ''}"
