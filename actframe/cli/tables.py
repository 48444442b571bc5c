"""The tables that commands print."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from actframe.cli.console import number, one_line, printable

if TYPE_CHECKING:
    from actframe.analysis.similarity import SiteSimilarity
    from actframe.analysis.stats import SiteStats

__all__ = ["facts_table", "new_table", "similarity_table", "sites_table", "stats_table"]

_LONGEST_FACT = 600


def new_table(title: str, *columns: str, right: Iterable[str] = (), caption: str | None = None) -> Table:
    """An empty table in the house style; the columns in `right` hold numbers and are aligned right."""
    table = Table(
        title=title, caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False
    )
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
    for each in stats:
        values = [
            number(each.mean),
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


def prompt_line(label: str, prompt: str | None, width: int = 90) -> Text:
    """`A  the beginning of a prompt`, in one line."""
    shown = one_line(prompt or "no prompt")
    return Text.assemble((label, "bold"), "  ", shown if len(shown) <= width else f"{shown[: width - 1]}…")


def _placed(value: float, *place: int | None) -> str:
    known = [str(at) for at in place if at is not None]
    return f"{number(value)} @{':'.join(known)}" if known else number(value)


def _alike(sites: Sequence[tuple[str, str, str, int | None]]) -> list[list[tuple[str, str, str, int | None]]]:
    """Sites of the same family, shape, dtype and size, in the order of each group's first."""
    groups: dict[tuple[Any, ...], list[tuple[str, str, str, int | None]]] = {}
    for site in sites:
        groups.setdefault((re.sub(r"layer_\d+", "layer_#", site[0]), *site[1:]), []).append(site)
    return list(groups.values())
