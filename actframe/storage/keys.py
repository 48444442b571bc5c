"""What tells records and writers apart: the question, trial and choice of a record, the name of a writer."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING

__all__ = ["CommittedKeys", "RecordKeys", "new_writer", "writer_of"]

Key = tuple[int, Any, Any, Any, Any]


class RecordKeys:
    """The question and trial that each record of a store is of, if it is of any, and the choice where it is of one.

    Models answer the same questions, and so do several runs of one model: in a store that was merged from different
    runs, records of different runs are never the same.

    Args:
        origin: what `run.json` says that the store was made from.
    """

    PARTS = ("question_id", "trial", "model", "choice")
    """What of a record its key is made of."""

    def __init__(self, origin: Mapping[str, Any] | None = None) -> None:
        sources = (origin or {}).get("merged", ())
        self._runs = {writer: source["run"] for source in sources for writer in source["writers"]}

    def of(self, shard: str, question_id: Any, trial: Any, model: Any, choice: Any = MISSING) -> Key | None:
        """The key of a record of a shard, which says this (or `MISSING`)."""
        # What is neither text nor a number names no question.
        if any(value is MISSING or isinstance(value, list | dict) for value in (question_id, trial)):
            return None
        model, choice = (str(value) if isinstance(value, list | dict) else value for value in (model, choice))
        return self._runs.get(writer_of(shard), 0), question_id, trial, model, choice

    def of_record(self, shard: str, said: Mapping[str, Any]) -> Key | None:
        """The key of a record of a shard, from all that it says."""
        return self.of(shard, *(said.get(key, MISSING) for key in self.PARTS))


class CommittedKeys:
    """The keys of the records that the ledger of a store holds."""

    def __init__(self, ledger: Ledger, keys: RecordKeys) -> None:
        self._ledger = ledger
        self._keys = keys

    def take(self, shard: str, said: Mapping[str, Any]) -> bool:
        """Note one more record that is to be committed; False if one with its key is committed already."""
        key = self._keys.of_record(shard, said)
        is_new = key is None or key not in self._taken
        self._taken.add(key)
        return is_new

    @cached_property
    def _taken(self) -> set[Key | None]:
        if not len(self._ledger):
            return set()
        shards = (self._ledger.shards[number] for number in self._ledger.shard_numbers.tolist())
        return set(map(self._keys.of, shards, *map(self._ledger.column, self._keys.PARTS)))


def new_writer() -> str:
    """The moment, so that ledgers lie in the order in which they were begun, and what no other writer has."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{now.microsecond:05x}{secrets.token_hex(2)}"


def writer_of(name: str) -> str:
    """The writer whose shard or ledger this is: the first two parts of the name."""
    return "-".join(name.partition(".")[0].split("-")[:2])
