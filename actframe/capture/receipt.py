"""The receipt of a record: how the model computed, and where in it each site was taken."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import torch
import transformers

from actframe.capture.layout import Place
from actframe.capture.sites import INPUT, MODULE, family

__all__ = ["Circumstances", "describe_places", "versions"]


class Circumstances:
    """How a model computes at this moment: where its sites are, in which dtype, with which attention kernel.

    Args:
        model: which.
        places: where its sites are, as `describe_places` says it.
    """

    def __init__(self, model: Any, places: Mapping[str, str]) -> None:
        self._model = model
        self._places = places
        self._parameter = next(model.parameters(), None)
        self._known: tuple[Any, dict[str, Any]] | None = None

    def __call__(self) -> dict[str, Any]:
        """The same dictionary as before, unless the model has changed."""
        kernel = getattr(getattr(self._model, "config", None), "_attn_implementation", None)
        now = kernel, None if self._parameter is None else self._parameter.dtype
        if self._known is None or self._known[0] != now:
            dtype = getattr(self._model, "dtype", now[1] or torch.get_default_dtype())
            said = {"places": dict(self._places), "dtype": str(dtype).removeprefix("torch.")}
            self._known = now, {**said, "attn_implementation": kernel}
        return self._known[1]


@functools.cache
def versions() -> dict[str, str]:
    """What records: the versions of the libraries."""
    return {
        "actframe_version": metadata.version("actframe"),
        "torch_version": str(torch.__version__),
        "transformers_version": transformers.__version__,
    }


def describe_places(places: Mapping[str, Place]) -> dict[str, str]:
    """Where sites are taken, in as few words as a line of a ledger wants, which repeats them for each record.

    Sites that differ in their layer alone share one entry, `"layer_{i}": "model.layers.{i}"`; those that do not fit
    into it have their own. `module:` sites say by themselves where they are and have none. `ActivationRecord.place_of`
    reads it.

    >>> describe_places({"embeddings": Place("h.0", "input"), "layer_0": Place("h.0"), "layer_1": Place("h.1")})
    {'embeddings': 'h.0@input', 'layer_{i}': 'h.{i}'}
    """
    families: dict[str, dict[str, tuple[str, str | None]]] = {}
    for site, place in places.items():
        if not site.startswith(MODULE):
            name, index = family(site)
            families.setdefault(name, {})[site] = _path(place), index
    described: dict[str, str] = {}
    for name, members in families.items():
        counted = Counter(form for path, index in members.values() for form in _forms(path, index))
        # Of forms that fit as often the first: the index of a layer stands before those of its parts.
        common = max(counted, key=counted.__getitem__)
        described[name] = common
        described |= {site: path for site, (path, index) in members.items() if common not in _forms(path, index)}
    return described


def _path(place: Place) -> str:
    item = f"[{place.item}]" if place.item else ""
    return f"{place.module}{INPUT if place.side == 'input' else ''}{item}"


def _forms(path: str, index: str | None) -> Iterator[str]:
    """A path with the index of its layer left open, wherever it may stand, and as it is."""
    parts = path.split(".")
    for number, part in enumerate(parts):
        if index is not None and re.fullmatch(rf"{index}([@\[].*)?", part):
            yield ".".join([*parts[:number], f"{{i}}{part.removeprefix(index)}", *parts[number + 1 :]])
    yield path
