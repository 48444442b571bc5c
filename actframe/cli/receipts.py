"""How receipts look on a terminal: how the records of a store were computed and taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from actframe.cli.console import one_line
from actframe.cli.store_tables import count, short
from actframe.cli.tables import new_table

if TYPE_CHECKING:
    from actframe.storage.receipts import Receipt

__all__ = ["receipt_facts", "receipts_table"]

_MOST = 12
_SIZES = "batch_size"
_HEADERS = {"attn_implementation": "attention", _SIZES: "batch size"}


def receipt_facts(receipts: Sequence[Receipt]) -> Iterator[tuple[str, str]]:
    """What all receipts say alike, and the batch sizes where they differ in nothing else."""
    if not receipts:
        return
    alike = {key: value for key, value in receipts[0].said.items() if key not in _differing(receipts)}
    sizes = "" if _is_table(receipts) else _sizes(receipts)
    kernel = f"{alike['attn_implementation']} attention" if alike.get("attn_implementation") else ""
    parts = [alike.get("dtype"), kernel, sizes, alike.get("recorded")]
    versions = [f"{each} {alike[f'{each}_version']}" for each in _LIBRARIES if f"{each}_version" in alike]
    if computed := ", ".join(str(part) for part in [*parts, *versions] if part):
        yield "computed", one_line(computed)
    taken = [f"by {alike['strategy']}"] if "strategy" in alike else []
    taken += [f"at {_places(alike['places'])}"] if "places" in alike else []
    if taken:
        yield "taken", one_line(" ".join(taken))


def receipts_table(receipts: Sequence[Receipt]) -> Table | None:
    """A row for each receipt with what it says unlike others; None where there is nothing to tell apart."""
    if not _is_table(receipts):
        return None
    keys = [key for key in dict.fromkeys(key for each in receipts for key in each.said) if key in _differing(receipts)]
    headers = [_HEADERS.get(key, key.replace("_version", "")) for key in keys]
    title = f"{count(len(receipts), 'receipt')}: how the records were computed and taken"
    table = new_table(title, "records", *headers, right=("records",))
    for each in receipts[:_MOST]:
        values = [_places(value) if key == "places" else str(value) for key, value in _of(each, keys)]
        table.add_row(Text(f"{each.records:,}"), *map(short, values))
    if len(receipts) > _MOST:
        table.caption = f"The first {_MOST} of {len(receipts):,}; --json has all."
    return table


_LIBRARIES = ("torch", "transformers", "actframe")


def _differing(receipts: Sequence[Receipt]) -> set[str]:
    keys = {key for each in receipts for key in each.said}
    # Not a set of values: places are mappings.
    return {key for key in keys if any(each.said.get(key, "-") != receipts[0].said.get(key, "-") for each in receipts)}


def _is_table(receipts: Sequence[Receipt]) -> bool:
    return bool(receipts) and not _differing(receipts) <= {_SIZES}


def _sizes(receipts: Sequence[Receipt]) -> str:
    found = [(each.said[_SIZES], each.records) for each in receipts if _SIZES in each.said]
    if len(found) < 2:
        return f"in batches of {found[0][0]}" if found else ""
    shown = [f"{size} ({count(records, 'record')})" for size, records in found[:_MOST]]
    shown += ["others"] if len(found) > _MOST else []
    return f"in batches of {', '.join(shown[:-1])} and {shown[-1]}"


def _places(said: Any) -> str:
    if not isinstance(said, Mapping):
        return str(said)
    return "; ".join(f"{site} {path}" for site, path in said.items()) or "modules by their own names"


def _of(receipt: Receipt, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    yield from ((key, receipt.said.get(key, "-")) for key in keys)
