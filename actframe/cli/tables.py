"""The tables that commands print."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from actframe.cli.console import number, one_line, printable

if TYPE_CHECKING:
    from actframe.analysis.similarity import SiteSimilarity
    from actframe.analysis.stats import SiteStats
    from actframe.runs.estimate import RunEstimate
    from actframe.runs.results import RunResult
    from actframe.runs.statistics import Summary

__all__ = [
    "accuracy_table",
    "answers_table",
    "duration",
    "estimate_table",
    "facts_table",
    "new_table",
    "results_table",
    "similarity_table",
    "sites_table",
    "stats_table",
]

_LONGEST_FACT = 600


def new_table(title: str, *columns: str, right: Iterable[str] = (), caption: str | None = None) -> Table:
    """An empty table in the house style; the columns in `right` hold numbers and are aligned right."""
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.title_style, table.caption_style = "bold", "dim"
    numbers = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=column in numbers)
    return table


def facts_table(title: str, facts: dict[str, Any]) -> Table:
    """Names and values, one a row; long values are cut, because the file still has them."""
    table = Table(title=title, box=None, show_header=False, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        text = printable(value if isinstance(value, str) else str(value)).strip()
        table.add_row(name, Text(text if len(text) <= _LONGEST_FACT else f"{text[:_LONGEST_FACT]}… (cut)"))
    return table


def sites_table(title: str, sites: Sequence[tuple[str, str, str, int | None]], caption: str | None = None) -> Table:
    """Sites with shape, dtype and size in bytes; layers that are alike share a row."""
    sized = any(size is not None for *_, size in sites)
    columns = ["site", "shape", "dtype", *(["size", "total"] if sized else [])]
    table = new_table(title, *columns, right=("size", "total"), caption=caption)
    for group in _alike(sites):
        name, shape, dtype, size = group[0]
        shown = name if len(group) == 1 else f"{name} .. {group[-1][0]} ({len(group)})"
        sizes = [] if size is None else [decimal(size), decimal(size * len(group))]
        table.add_row(Text(printable(shown)), shape, dtype, *sizes)
    return table


def stats_table(title: str, stats: Sequence[SiteStats]) -> Table:
    """One row a site; the places of the largest values stand beside them."""
    numbers = ("mean", "std", "kurtosis", "norm", "max norm", "max |x|", "zeros", "nonfinite")
    bad = any(each.nonfinite for each in stats)
    columns = numbers if bad else numbers[:-1]
    caption = (
        "norm: median over positions of the L2 norm. @ position, or position:dimension. A Gaussian has kurtosis 3."
    )
    table = new_table(title, "site", *columns, right=columns, caption=caption)
    table.columns[0].min_width = 10
    for each in stats:
        values = [
            number(each.mean, digits=3),
            number(each.std),
            number(each.kurtosis),
            number(each.norm_median),
            _placed(each.norm_max, each.norm_max_position),
            _placed(each.max_abs, *(each.max_abs_at or ())),
            "-" if math.isnan(each.zero_fraction) else f"{each.zero_fraction:.1%}",
        ]
        table.add_row(Text(printable(each.site)), *values, *([str(each.nonfinite)] if bad else []))
    return table


def similarity_table(title: str, similarities: Sequence[SiteSimilarity], position: str) -> Table:
    """One row a site: the cosine, both norms, and CKA where there are positions enough."""
    shared = max((each.cka_positions for each in similarities), default=0)
    with_cka = any(each.cka is not None for each in similarities)
    columns = ("cosine", "norm A", "norm B", *(("CKA",) if with_cka else ()))
    caption = f"Cosine and norms at position '{position}'."
    if with_cka:
        caption += f" CKA: linear, debiased, over {shared} shared positions without position 0."
    table = new_table(title, "site", *columns, right=columns, caption=caption)
    for each in similarities:
        cosine = "-" if math.isnan(each.cosine) else f"{each.cosine:.4f}"
        cka = "-" if each.cka is None or math.isnan(each.cka) else f"{each.cka:.3f}"
        row = [cosine, number(each.norm_first), number(each.norm_second), *([cka] if with_cka else [])]
        table.add_row(Text(printable(each.site)), *row)
    return table


def results_table(title: str, result: RunResult, by_subject: bool = True) -> Table:
    """Accuracy with its interval: a row for each subject where there are several, and one for all."""
    subjects = result.by_subject if by_subject else {}
    return accuracy_table(title, "subject", subjects if len(subjects) > 1 else {}, result.summary)


def accuracy_table(title: str, label: str, groups: Mapping[str, Summary], summary: Summary | None) -> Table:
    """Accuracy with its interval: a row for each group, and one for all, where there is such a thing."""
    summaries = [*groups.values(), *([] if summary is None else [summary])]
    chances = {each.chance for each in summaries}
    differ = ("chance",) if len(chances) > 1 else ()
    numbers = ("n", "accuracy", "95% interval", "± s.e.", *differ, "unparsed", "truncated")
    if not summaries:
        return new_table(title, label, *numbers, right=numbers, caption="No answers.")
    (chance,) = chances if len(chances) == 1 else (None,)
    guessing = "" if chance is None else f" Guessing gets {chance:.0%}."
    caption = f"n: questions. Unparsed: no answer found. Truncated: cut off by the token limit.{guessing}"
    table = new_table(title, label, *numbers, right=numbers, caption=caption)
    table.columns[0].overflow = "fold"
    for name, each in groups.items():
        table.add_row(Text(one_line(name)), *_summary_cells(each, bool(differ)))
    if summary is not None:
        table.add_section()
        table.add_row("all", *_summary_cells(summary, bool(differ)), style="bold")
    return table


def answers_table(title: str, answers: Sequence[Mapping[str, Any]]) -> Table:
    """One row an answer: what was asked, answered and expected."""
    table = new_table(title, "question", "answer", "expected", "")
    for column in table.columns[1:]:
        column.no_wrap = True
    for each in answers:
        mark = Text("right", "green") if each["correct"] else Text("wrong", "red")
        answer = Text("-" if each["unparsed"] else one_line(str(each["extracted_answer"])))
        table.add_row(
            Text(one_line(each["prompt"].strip().partition("\n")[0])), answer, one_line(each["expected"]), mark
        )
    return table


def estimate_table(title: str, estimate: RunEstimate) -> Table:
    """What a run takes, and what is there: expected, and if every answer became as long as it may."""
    caption = f"From {estimate.sampled} answers. Memory is without what the model computes with (KV cache, attention)."
    table = new_table(title, "", "expected", "at most", right=("expected", "at most"), caption=caption)
    memory = estimate.memory
    table.add_row("answers to give", f"{estimate.answers:,} of {estimate.total:,}", "")
    table.add_row("tokens of a prompt", f"{estimate.prompt_tokens:.0f}", "")
    table.add_row("tokens of a response", f"{estimate.output_tokens:.0f}", f"{estimate.max_new_tokens}")
    table.add_section()
    if estimate.token_bytes:
        table.add_row("activations of a token", decimal(estimate.token_bytes), "")
        table.add_row("compressed by", f"{estimate.ratio:.2f}x", "")
    table.add_row("an answer on disk", decimal(estimate.answer_bytes), decimal(estimate.answer_bytes_max))
    table.add_row("disk", decimal(estimate.disk_bytes), decimal(estimate.disk_bytes_max), style="bold")
    for label, room in (("  free", estimate.disk_free), ("  left of --max-disk", estimate.disk_allowed)):
        if room is not None:
            table.add_row(label, decimal(room), "")
    table.add_section()
    for label, size in (
        (f"model ({estimate.device})", memory.model),
        ("activations of a batch", memory.batch),
        ("the recorder's copy", memory.recorder),
        ("waiting to be written", memory.store),
    ):
        if size:
            table.add_row(label, "", decimal(size))
    table.add_row("memory", "", decimal(memory.total), style="bold")
    table.add_section()
    table.add_row("time", f"about {duration(estimate.seconds)}", "", style="bold")
    return table


def duration(seconds: float) -> str:
    """A time in few words."""
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(1, round(seconds))} s"


def _summary_cells(summary: Summary, with_chance: bool) -> list[str]:
    return [
        f"{summary.questions:,}",
        f"{summary.accuracy:.1%}",
        f"{summary.low:.1%} - {summary.high:.1%}",
        "-" if summary.standard_error is None else f"{summary.standard_error:.1%}",
        *(["-" if summary.chance is None else f"{summary.chance:.1%}"] if with_chance else []),
        f"{summary.unparsed:.1%}",
        f"{summary.truncated:.1%}",
    ]


def _placed(value: float, *place: int | None) -> str:
    known = [str(at) for at in place if at is not None]
    return f"{number(value)} @{':'.join(known)}" if known else number(value)


def _alike(sites: Sequence[tuple[str, str, str, int | None]]) -> list[list[tuple[str, str, str, int | None]]]:
    """Sites of the same family, shape, dtype and size, in the order of each group's first."""
    groups: dict[tuple[Any, ...], list[tuple[str, str, str, int | None]]] = {}
    for site in sites:
        groups.setdefault((re.sub(r"layer_\d+", "layer_#", site[0]), *site[1:]), []).append(site)
    return list(groups.values())
