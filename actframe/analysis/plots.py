"""Pictures of records, drawn with matplotlib (the extra `plot`) and no global state.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actframe.analysis.rows import ATTENTION_SINK, Record, describe, read_rows
from actframe.analysis.similarity import compare_records
from actframe.analysis.stats import row_norms
from actframe.capture.sites import LAYER
from actframe.errors import SiteError, StorageError, needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_norms", "draw_similarity", "save_overview"]

_BLUE, _VERMILION, _BLACK, _GREEN = "#0072B2", "#D55E00", "#222222", "#009E73"
_STYLE: dict[str, dict[str, Any]] = {
    "position 0 (attention sink)": {"color": _BLACK, "linestyle": (0, (4, 2))},
    "prompt": {"color": _BLUE},
    "response": {"color": _VERMILION},
    "all rows": {"color": _BLUE},
}
_SIMILARITY_STYLE: dict[str | int, dict[str, Any]] = {
    "last_prompt": {"color": _BLUE, "marker": "o", "label": "last token of the prompt"},
    "mean": {"color": _GREEN, "marker": "s", "label": "mean over tokens, without position 0"},
    "last": {"color": _VERMILION, "marker": "^", "label": "last token"},
}


def save_overview(first: Record, second: Record, path: str | Path) -> Path:
    """Write a PNG of two panels: the residual stream's norms in `first`, and its cosine similarity to `second`.

    Raises:
        ActframeError: matplotlib is not installed.
        SiteError: the records do not share residual streams.
        StorageError: the path cannot be written.
    """
    figure = _new_figure()
    left, right = figure.subplots(1, 2)
    draw_norms(left, first)
    draw_similarity(right, first, second)
    figure.suptitle(f"Residual stream of {first.get('model', 'a model')}", x=0.01, ha="left", weight="bold", size=13)
    try:
        figure.savefig(path, format="png", dpi=160)
    except OSError as error:
        raise StorageError(f"cannot write the plot {path}: {error.strerror or error}") from error
    return Path(path)


def draw_norms(axes: Axes, record: Record) -> None:
    """Draw the L2 norm of the residual stream at each layer, one thin line a position, on a logarithmic scale.

    Thick lines are medians. Position 0 stands apart, because in many models its norm is a hundred times the others'.
    """
    from matplotlib.collections import LineCollection

    sites = _residual_sites(record)
    norms = torch.stack([row_norms(read_rows(record, site).tensor) for site in sites], dim=1)
    layers = range(len(sites))
    for label, rows in _groups(record, sites[0]).items():
        style = _STYLE[label]
        lines = norms[rows].clamp_min(1e-12)
        if len(rows) > 1:
            points = [list(zip(layers, line, strict=True)) for line in lines.tolist()]
            alpha = max(0.05, min(0.5, 10 / len(rows)))
            axes.add_collection(LineCollection(points, linewidths=0.7, colors=style["color"], alpha=alpha))
        counted = f"{label}: median of {len(rows)} tokens" if len(rows) > 1 else label
        axes.plot(layers, lines.quantile(0.5, dim=0).tolist(), linewidth=2.2, label=counted, **style)
    axes.set_yscale("log")
    axes.set_title(f"Norm at each layer\n{_quoted(record)}", loc="left", size=10.5)
    axes.set_ylabel("L2 norm of the residual stream")
    _finish(axes, sites)


def draw_similarity(
    axes: Axes, first: Record, second: Record, positions: Sequence[str | int] = ("last_prompt", "mean")
) -> None:
    """Draw the cosine similarity of two records' residual streams at each layer, one line for each of `positions`."""
    sites = [site for site in _residual_sites(first) if site in second["activations"]]
    if not sites:
        raise SiteError(f"{describe(first)} and {describe(second)} share no residual stream")
    for position in positions:
        cosines = [result.cosine for result in compare_records(first, second, position, sites)]
        style = {"label": f"position {position}", **_SIMILARITY_STYLE.get(position, {})}
        axes.plot(range(len(sites)), cosines, markersize=4, linewidth=1.8, **style)
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=0)
    axes.set_title(f"Cosine similarity to another prompt\n{_quoted(second)}", loc="left", size=10.5)
    axes.set_ylabel("cosine similarity")
    _finish(axes, sites)


def _new_figure() -> Figure:
    with needs_extra("a plot", "matplotlib", "plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    figure = Figure(figsize=(12, 4.8), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure


def _residual_sites(record: Record) -> list[str]:
    """Embeddings and layers of one tower: the last one, which writes the response."""
    towers = [match["tower"] for match in map(LAYER.fullmatch, record["activations"]) if match]
    if not towers:
        raise SiteError(f"{describe(record)} has no residual stream to draw: record layer_* and, best, embeddings")
    wanted = (f"{towers[-1]}embeddings", f"{towers[-1]}layer_")
    return [site for site in record["activations"] if site == wanted[0] or _is_layer(site, wanted[1])]


def _is_layer(site: str, prefix: str) -> bool:
    return site.startswith(prefix) and LAYER.fullmatch(site) is not None


def _groups(record: Record, site: str) -> dict[str, list[int]]:
    """Rows by what they are, in the order they are drawn."""
    rows = read_rows(record, site)
    if rows.positions is None:
        return {"all rows": list(range(len(rows.tensor)))}
    end = record.get("prompt_length", len(record.get("input_ids", rows.positions)))
    groups: dict[str, list[int]] = {"prompt": [], "response": [], "position 0 (attention sink)": []}
    for row, position in enumerate(rows.positions):
        if position == ATTENTION_SINK:
            groups["position 0 (attention sink)"].append(row)
        else:
            groups["prompt" if position < end else "response"].append(row)
    return {label: members for label, members in groups.items() if members}


def _finish(axes: Axes, sites: Sequence[str]) -> None:
    ticks = _ticks(sites)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlabel("after layer")
    axes.set_xlim(-0.5, len(sites) - 0.5)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def _ticks(sites: Sequence[str]) -> dict[int, str]:
    """Where labels stand and what they say: the embeddings, and round layer numbers far enough apart to be read."""
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100, 1000) if len(sites) <= 12 * size)
    ticks: dict[int, str] = {}
    for at, site in enumerate(sites):
        match = LAYER.fullmatch(site)
        crowded = at - 1 in ticks and step > 1
        if match is None:
            ticks[at] = "emb"
        elif int(match["index"]) % step == 0 and not crowded:
            ticks[at] = match["index"]
    return ticks


def _quoted(record: Record) -> str:
    prompt = str(record.get("prompt") or "no prompt").strip().splitlines()[0]
    return f"“{prompt if len(prompt) <= 64 else prompt[:63].rstrip() + '…'}”"
