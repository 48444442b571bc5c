"""Parts of a store: of which run the records of each writer are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actframe.storage.identity import StoreIdentity
from actframe.storage.keys import writer_of

__all__ = ["Run", "StoreParts", "run_of_runs"]

Run = Mapping[str, Any] | None


class StoreParts:
    """The runs of a store: one, unless it was merged of several, or made of a store that was.

    Attributes:
        runs: what defines each.
        sources: what `run.json` says of the stores that it was merged of, if it was.
    """

    def __init__(self, identity: StoreIdentity) -> None:
        self.sources: list[dict[str, Any]] = list((identity.origin or {}).get("merged", ()))
        numbers = {writer: int(source["run"]) for source in self.sources for writer in source["writers"]}
        is_one = len(set(numbers.values())) < 2
        self.runs: list[Run] = [identity.run] if is_one else list((identity.run or {})["merged"])
        self._numbers = {} if is_one else numbers

    def number(self, shard: str) -> int:
        """Which of the runs the records of a shard are of."""
        return self._numbers.get(writer_of(shard), 0)


def run_of_runs(runs: Sequence[Run]) -> Run:
    """What defines a store of these runs."""
    return runs[0] if len(runs) == 1 else {"merged": list(runs)}
