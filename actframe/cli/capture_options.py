"""The options of `actframe capture`, in the panels that its help shows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from actframe.cli.options import parse_sites

__all__ = [
    "BatchTokens",
    "ChatTemplate",
    "Config",
    "Data",
    "DropFields",
    "DryRun",
    "Dtype",
    "Empty",
    "Field",
    "FlushEvery",
    "Layers",
    "Limit",
    "Overwrite",
    "Positions",
    "PromptField",
    "ResponseField",
    "Sites",
    "Split",
    "Storage",
    "TooLong",
    "one_of",
    "parse_fields",
]

_WHAT, _TEXTS, _PLACE = "What to run", "The texts", "Where it goes"
_CAPTURE = "Activations"


def _option(panel: str, metavar: str, help: str, **more: Any) -> Any:
    return typer.Option(metavar=metavar, help=help, rich_help_panel=panel, **more)


Data = Annotated[
    str,
    _option(
        _TEXTS,
        "DATA",
        "A file (.jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt), a folder, or the hub id of a data set.",
        show_default=False,
    ),
]
Field = Annotated[str | None, _option(_TEXTS, "NAME", "The field that holds the text.", show_default="text")]
PromptField = Annotated[
    str | None, _option(_TEXTS, "NAME", "Of pairs, the field that holds the prompt.", show_default=False)
]
ResponseField = Annotated[
    str | None, _option(_TEXTS, "NAME", "Of pairs, the field that holds the response.", show_default=False)
]
DropFields = Annotated[str | None, _option(_TEXTS, "LIST", "Fields that records are not to have.", show_default="none")]
Split = Annotated[str | None, _option(_TEXTS, "NAME", "The split of a data set on the hub.", show_default="train")]
Config = Annotated[
    str | None,
    _option(_TEXTS, "NAME", "The configuration of a data set on the hub, where it has several.", show_default=False),
]
Limit = Annotated[int | None, _option(_TEXTS, "N", "Only the first N rows.", min=1, show_default="all")]
ChatTemplate = Annotated[
    str,
    _option(
        _TEXTS,
        "WHEN",
        "Put texts into the chat template as a user's message: on, off, or auto: prompts of pairs where there is one.",
    ),
]
TooLong = Annotated[str, _option(_TEXTS, "WHAT", "Texts that do not fit the context: error, or skip.")]
Empty = Annotated[str, _option(_TEXTS, "WHAT", "Texts without a token: error, or skip.")]

BatchTokens = Annotated[int, _option(_WHAT, "N", "How many tokens are computed together, padding included.", min=1)]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Look at all texts, compute a few, say what it takes in disk and time, and write nothing.",
        rich_help_panel=_WHAT,
    ),
]

Layers = Annotated[
    str | None, _option(_CAPTURE, "LIST", "Layers: '0,5,-1' or '0-5'.", show_default="embeddings and all")
]
Sites = Annotated[
    str | None,
    _option(
        _CAPTURE,
        "LIST",
        "Sites, beside the layers: 'embeddings,layer_*.mlp_out'; see `actframe sites`.",
        show_default=False,
    ),
]
Positions = Annotated[
    str | None,
    _option(
        _CAPTURE,
        "POSITIONS",
        "Which positions: all, prompt, response, last_prompt, last, a slice '1:5', or numbers '0,3,-1'.",
        show_default="all",
    ),
]
Dtype = Annotated[str | None, _option(_CAPTURE, "DTYPE", "Cast activations to it.", show_default="as computed")]
Storage = Annotated[
    str | None,
    _option(
        _CAPTURE,
        "NAME",
        "The storage backend, as `actframe plugins` lists them: safetensors, zstd, pickle.",
        show_default="safetensors",
    ),
]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that is in the folder.", rich_help_panel=_PLACE)
]
FlushEvery = Annotated[
    str | None,
    _option(_PLACE, "TIME", "What a crash may cost: a time (60s, 5m), or so many records (500).", show_default="5m"),
]


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """The value, or a usage error that says what there is."""
    if value not in known:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}", param_hint=f"'--{name}'")
    return value


def parse_fields(text: str | None) -> tuple[str, ...]:
    """Names, separated by commas."""
    return tuple(parse_sites(text))
