"""What options mean: lists of layers, sites and positions, and the options that several commands share."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "RecordPath",
    "SitesOption",
    "parse_bytes",
    "parse_every",
    "parse_layers",
    "parse_positions",
    "parse_sites",
]

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
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b|bytes)?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


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


def parse_bytes(text: str) -> int:
    """A size: `50GB`, `1.5 GiB`, `800M`, or a plain number of bytes.

    >>> parse_bytes("50GB"), parse_bytes("1.5 GiB"), parse_bytes("4096")
    (50000000000, 1610612736, 4096)
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size; write 50GB, 1.5GiB, 800MB, or a number of bytes")
    number, unit, binary = match.groups()
    power = "kmgt".index(unit.lower()) + 1 if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def parse_every(text: str) -> timedelta | int | None:
    """A time (`90s`, `5m`, `1h`), a number of answers (`500`), or `never`.

    >>> parse_every("90s"), parse_every("500"), parse_every("never")
    (datetime.timedelta(seconds=90), 500, None)
    """
    text = text.strip().lower()
    if text == "never":
        return None
    if text.isdecimal():
        return int(text)
    match = _TIME.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is neither a time (90s, 5m, 1h), nor a number of answers, nor 'never'")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def _bad_layers(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="'--layers'")


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
