"""How the results of runs look on a terminal, one alone or several side by side."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from actframe.cli.console import number, one_line, printable
from actframe.cli.store_tables import count
from actframe.cli.tables import duration, new_table
from actframe.runs.differences import compare_runs

if TYPE_CHECKING:
    from actframe.runs.comparison import Comparison
    from actframe.runs.results import RunResult
    from actframe.runs.statistics import Summary
    from actframe.runs.stored_results import StoredResults

__all__ = ["describe_difference", "describe_settings", "differences_table", "figures_table", "letters", "runs_table"]


_MOST_SETTINGS = 8


def letters(runs: Sequence[Any]) -> list[str]:
    """A short name for each of several runs: A, B, C; numbers where there are more than letters."""
    return [
        string.ascii_uppercase[at] if len(runs) <= len(string.ascii_uppercase) else str(at + 1)
        for at in range(len(runs))
    ]


def runs_table(runs: Mapping[str, StoredResults]) -> Table:
    """Which run each letter stands for."""
    table = new_table("", "", "run", "model", "benchmark")
    for letter, run in runs.items():
        names = (one_line(name or "not known") for name in (run.model, run.benchmark))
        table.add_row(letter, Text(printable(run.location), "cyan", overflow="fold"), *names)
    return table


def figures_table(results: Mapping[str, RunResult]) -> Table:
    """What results say beside the accuracy: a row for each figure, a column for each run."""
    table = Table(box=None, show_header=len(results) > 1, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", style="cyan", no_wrap=True)
    for label in results:
        table.add_column(label, justify="left" if len(results) == 1 else "right", overflow="fold")
    found = [dict(_figures(result)) for result in results.values()]
    for name in dict.fromkeys(name for figures in found for name in figures):
        table.add_row(Text(one_line(name)), *(Text(one_line(figures.get(name, "-"))) for figures in found))
    return table


def differences_table(differences: Mapping[str, Comparison]) -> Table:
    """How much more accurate one run is than another: a row for each pair of them."""
    with_wins = any(each.discordant for each in differences.values())
    columns = ("questions", "points", "95% interval", "± s.e.", *(("won", "lost", "p") if with_wins else ()))
    caption = "Points: percentage points of accuracy."
    if with_wins:
        caption += " Won, lost: questions that only one of the two got right; p: McNemar's exact test."
    table = new_table("Differences", "", *columns, right=columns, caption=caption)
    for label, each in differences.items():
        known = each.low is not None and each.high is not None
        table.add_row(
            label,
            f"{each.questions:,}" if each.kind == "paired" else "-",
            f"{100 * each.difference:+.1f}",
            f"{100 * (each.low or 0):+.1f} to {100 * (each.high or 0):+.1f}" if known else "-",
            "-" if each.standard_error is None else f"{100 * each.standard_error:.1f}",
            *(_wins(each) if with_wins else ()),
        )
    return table


def describe_settings(label: str, first: StoredResults, second: StoredResults) -> Iterator[str]:
    """In what the second run was made differently, as far as it bears on its answers."""
    if first.run is None or second.run is None:
        return
    found = [each for each in compare_runs(first.run, second.run) if not each.is_circumstance]
    said = [each for each in found if each.key.partition(".")[0] != "capture"]
    # Hashes say that something differs, which is of use where nothing else does.
    plain = [each for each in said if "sha256:" not in str(each)] or said
    if plain:
        more = ", ..." if len(plain) > _MOST_SETTINGS else ""
        after, _, before = label.split()
        yield f"{label}: from {before} to {after} changed {', '.join(map(str, plain[:_MOST_SETTINGS]))}{more}"


def describe_difference(label: str, difference: Comparison) -> Iterator[str]:
    """What has to be known of a difference beside its numbers, in sentences."""
    if difference.kind == "independent":
        yield f"{label}: they share no question, so this is the difference of two independent samples"
    elif difference.only_first or difference.only_second:
        second, _, first = label.split()
        alone = {first: difference.only_first, second: difference.only_second}
        left_out = " and ".join(f"{each:,} that only {name} answered" for name, each in alone.items() if each)
        yield f"{label}: over the {count(difference.questions, 'question')} that both answered, without {left_out}"
    if difference.expect_another:
        yield (
            f"{label}: {difference.expect_another:,} of the questions expect another answer; unless choices were "
            f"shuffled, they are other questions under the same ids"
        )
    if difference.kind == "paired" and difference.low is None:
        yield f"{label}: each question has the same difference, which says nothing of how far it varies"


def _figures(result: RunResult) -> Iterator[tuple[str, str]]:
    summary, said = result.summary, result.circumstances
    if summary is not None:
        yield from _figures_of_answers(summary, len(result.by_subject))
    if speed := said.get("tokens_per_second"):
        yield "speed", f"{number(speed)} tokens/s"
    if seconds := said.get("seconds"):
        yield "time", duration(seconds)
    if too_long := said.get("too_long"):
        yield "too long", f"{count(len(too_long), 'question')} left out"
    if result.partial:
        answers = said.get("answers") or {}
        total = "" if answers.get("total") is None else f" of {answers['total']:,}"
        why = f": {result.reason}" if result.reason else ""
        yield "not complete", f"{len(result.answers):,}{total} answers{why}"


def _figures_of_answers(summary: Summary, subjects: int) -> Iterator[tuple[str, str]]:
    if summary.macro is not None and subjects > 1:
        yield "subjects", f"{subjects:,}"
        yield "macro accuracy", f"{summary.macro:.1%}"
    if summary.trials > 1:
        yield "trials", f"{summary.trials:,}"
        if summary.complete < summary.questions:
            yield "with all trials", f"{summary.complete:,} of {summary.questions:,}"
        for name, value in summary.pass_at.items():
            yield name, f"{value:.1%}"
        if summary.majority is not None:
            yield "majority vote", f"{summary.majority:.1%}"
        if summary.agreement is not None:
            yield "agreement", f"{summary.agreement:.1%}"
    for name, metric in summary.metrics.items():
        error = "" if metric.standard_error is None else f" ± {number(metric.standard_error, 2)}"
        yield name, f"{number(metric.mean, 3)}{error}"


def _wins(difference: Comparison) -> list[str]:
    found = difference.discordant
    if found is None:
        return ["-", "-", "-"]
    p_value = "<0.0001" if found.p_value < 0.0001 else f"{found.p_value:.4f}"
    return [f"{found.only_second:,}", f"{found.only_first:,}", p_value]
