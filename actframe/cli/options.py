"""What options mean: lists of layers, sites and positions, and the options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "RecordPath", "SitesOption", "parse_layers", "parse_positions", "parse_sites"]

RecordPath = Annotated[Path, typer.Argument(metavar="FILE", help="An activation file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
SitesOption = Annotated[
    str | None,
    typer.Option(
        "--sites",
        metavar="LIST",
        help="Only these sites: names and patterns, as in 'embeddings,layer_*'.",
        show_default=False,
    ),
]

_RANGE = re.compile(r"(\d+)-(\d+)")
_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?")
_NUMBER = re.compile(r"-?\d+")


def parse_layers(text: str | None) -> list[int]:
    """Layer numbers, from `0,5,-1` (negative: from the end) or `0-5` (both ends included).

    >>> parse_layers("0-2, 7,-1")
    [0, 1, 2, 7, -1]
    """
    layers: list[int] = []
    for part in _parts(text):
        if match := _RANGE.fullmatch(part):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise _bad_layers(f"the range {part!r} is empty; write the smaller layer first")
            layers.extend(range(first, last + 1))
        elif _NUMBER.fullmatch(part):
            layers.append(int(part))
        else:
            raise _bad_layers(f"{part!r} is not a layer; write numbers and ranges, as in '0,5,-1' or '0-5'")
    return layers


def parse_sites(text: str | None) -> list[str]:
    """Names and patterns, separated by commas.

    >>> parse_sites("embeddings, layer_*.mlp_out")
    ['embeddings', 'layer_*.mlp_out']
    """
    return _parts(text)


def parse_positions(text: str) -> str | slice | list[int]:
    """A word (`last_prompt`), a slice (`1:5`), or numbers (`0,3,-1`); which words there are, `Selection` knows.

    >>> parse_positions("1:5"), parse_positions("0,3"), parse_positions("last")
    (slice(1, 5, None), [0, 3], 'last')
    """
    if match := _SLICE.fullmatch(text.strip()):
        start, stop = (int(bound) if bound else None for bound in match.groups())
        return slice(start, stop)
    parts = _parts(text)
    if parts and all(_NUMBER.fullmatch(part) for part in parts):
        return [int(part) for part in parts]
    return text.strip()


def _bad_layers(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="'--layers'")


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
