"""Where two runs are not alike, in what defines them: `run.json` of a store, as `describe_run` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actframe.capture.sites import summarise

__all__ = ["Difference", "compare_runs"]

CIRCUMSTANCES = ("device", "attn_implementation", "versions")
"""What may differ between two sittings of one run."""


@dataclass(frozen=True)
class Difference:
    """One thing in which the run that is stored and the one that is asked for are not alike.

    Attributes:
        key: where it is, with dots: `generation.batch_size`.
        stored, asked: both values.
        is_circumstance: it is about where and with what the run is computed, not about what it is.
    """

    key: str
    stored: Any
    asked: Any
    is_circumstance: bool

    def __str__(self) -> str:
        stored, asked = self.stored, self.asked
        if isinstance(stored, list) and isinstance(asked, list):
            stored = [each for each in self.stored if each not in self.asked]
            asked = [each for each in self.asked if each not in self.stored]
        return f"{self.key}: {_shown(stored)} -> {_shown(asked)}"


def compare_runs(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Difference]:
    """Where two runs, as `describe_run` tells of them, are not alike.

    >>> for each in compare_runs({"limit": 10, "model": {"name": "a"}}, {"limit": None, "model": {"name": "a"}}):
    ...     print(each)
    limit: 10 -> none
    """
    same_version = _version(stored) == _version(asked)
    found = {each.key: each for each in _differences("", stored, asked, same_version)}
    if found.keys() & {"limit", "subjects", "benchmark.name"}:
        # These questions are not those because of that.
        for consequence in ("benchmark.questions", "benchmark.fingerprint"):
            found.pop(consequence, None)
    return list(found.values())


def _version(run: Mapping[str, Any]) -> Any:
    said = run.get("versions")
    return said.get("actframe") if isinstance(said, Mapping) else None


def _differences(
    prefix: str, stored: Mapping[str, Any], asked: Mapping[str, Any], same_version: bool
) -> Iterator[Difference]:
    for key in dict.fromkeys([*stored, *asked]):
        ours, theirs, path = stored.get(key), asked.get(key), f"{prefix}{key}"
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(f"{path}.", ours, theirs, same_version)
        elif ours != theirs:
            # Another version may say more of a run, or less, than this one.
            unsaid = not same_version and not (key in stored and key in asked)
            yield Difference(path, ours, theirs, unsaid or path.partition(".")[0] in CIRCUMSTANCES)


def _shown(value: Any) -> str:
    """A value in few words."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return f"{summarise(value)} ({len(value)})"
    if isinstance(value, str):
        return value if len(value) <= 80 and not value.startswith("sha256:") else f"{value[:19]}..."
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items() if each is not None)
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
