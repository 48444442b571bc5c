"""Receipts: how the records of a store were computed and taken, each way once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from actframe.storage.ledger import Ledger
from actframe.storage.ledger_files import Array
from actframe.storage.ledger_lines import MISSING

__all__ = ["RECEIPT_KEYS", "Receipt", "ledger_receipts"]

RECEIPT_KEYS = (
    "model",
    "strategy",
    "places",
    "dtype",
    "attn_implementation",
    "batch_size",
    "recorded",
    "actframe_version",
    "torch_version",
    "transformers_version",
)
"""What a record says of how it was computed and taken."""


@dataclass(frozen=True)
class Receipt:
    """One way in which records were computed and taken.

    Attributes:
        said: what they all say, of `RECEIPT_KEYS`; what older ones do not say is not there.
        records: how many there are.
    """

    said: dict[str, Any]
    records: int

    def as_json(self) -> dict[str, Any]:
        """The same in JSON-safe form."""
        return {"records": self.records, **self.said}


def ledger_receipts(ledger: Ledger, numbers: Array) -> list[Receipt]:
    """The receipts of some records, that of most of them first."""
    known = set(ledger.keys()) if len(numbers) else set()
    keys = [key for key in RECEIPT_KEYS if key in known]
    if not keys:
        return []
    counts: dict[tuple[Any, ...], int] = {}
    values: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for said in zip(*ledger.columns(keys, numbers), strict=True):
        name = tuple(map(_name, said))
        if name in counts:
            counts[name] += 1
        else:
            counts[name], values[name] = 1, said
    most_first = sorted(counts, key=counts.__getitem__, reverse=True)
    return [Receipt(_without_gaps(zip(keys, values[name], strict=True)), counts[name]) for name in most_first]


def _name(value: Any) -> Any:
    """The same for the same; lists and objects, which nothing can be looked up by, as their JSON."""
    return value if type(value) is str or not isinstance(value, dict | list) else msgspec.json.encode(value)


def _without_gaps(said: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in said if value is not MISSING}
