"""What `actframe show` says of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from actframe.capture.sites import summarise
from actframe.cli import tables
from actframe.cli.console import announce, one_line, print_json, print_path, stdout
from actframe.cli.receipts import receipt_facts, receipts_table
from actframe.cli.store_paths import open_folder
from actframe.cli.store_tables import count, local_time, short

if TYPE_CHECKING:
    from actframe.runs.overview import StoreOverview

__all__ = ["show_store"]

_MOST_ROWS = 12
_LONGEST_NAME = 40


def show_store(path: str, as_json: bool) -> None:
    """Say what is in a store."""
    folder = open_folder(path)
    announce(f"reading {folder.location}")
    from actframe.runs.overview import describe_store
    from actframe.storage.store import ActivationStore

    overview = describe_store(ActivationStore(folder.location, create=False))
    if as_json:
        print_json(overview.as_json())
        return
    console = stdout()
    print_path(overview.location)
    console.print(tables.facts_table("", {name: one_line(value) for name, value in _facts(overview)}))
    for table in _tables(overview):
        console.print()
        console.print(table)


def _facts(of: StoreOverview) -> Iterator[tuple[str, str]]:
    run = of.run or {}
    yield "model", _model(of, run)
    if of.benchmarks:
        yield "benchmark", ", ".join(of.benchmarks)
    if isinstance(data := run.get("data"), Mapping):
        yield "data", f"{data.get('name')} ({', '.join(map(str, data.get('fields') or ()))})"
    yield "records", _records(of)
    if settings := _settings(run.get("generation")):
        yield "generation", settings
    if capture := _capture(run.get("capture")):
        yield "captured", capture
    yield from receipt_facts(of.receipts)
    if of.first and of.last:
        yield "recorded", _span(of.first, of.last)
    yield "size", _size(of)
    yield from _origin(of.origin)
    yield from _state(of)


def _tables(of: StoreOverview) -> Iterator[Table]:
    if len(of.accuracy) == 1:
        ((_, summary),) = of.accuracy.items()
        subjects = of.by_subject if len(of.by_subject) > 1 else {}
        yield _cut_table("Accuracy", "subject", subjects, summary)
    elif of.accuracy:
        yield _cut_table("Accuracy", "model", of.accuracy, None)
    if (receipts := receipts_table(of.receipts)) is not None:
        yield receipts
    if of.sites.sites:
        rows = [(site.site, _shape(site.shape), site.dtype, site.bytes) for site in of.sites.sites]
        yield tables.sites_table("Sites", rows, _sites_caption(of))
    if of.preview:
        yield _preview(of)


def _cut_table(title: str, label: str, groups: Mapping[str, Any], summary: Any) -> Table:
    """The accuracy of as many groups as are read at a glance."""
    shown = {_cut(name): each for name, each in list(groups.items())[:_MOST_ROWS]}
    table = tables.accuracy_table(title, label, shown, summary)
    if len(shown) < len(groups):
        table.caption = f"The first {len(shown)} of {len(groups)}; --json has all. {table.caption}"
    return table


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _preview(of: StoreOverview) -> Table:
    """The first records, one a line."""
    judged = any("correct" in each for each in of.preview)
    repeated = (of.trials or 0) > 1
    said, answered = _words(of.preview)
    columns = [said, *(["trial"] if repeated else []), *answered, *(["expected", ""] if judged else [])]
    title = "The first records" if of.records > len(of.preview) else "The records"
    table = tables.new_table(title, *columns)
    for each in of.preview:
        answer = each.get("response") if each.get("extracted_answer") is None else each["extracted_answer"]
        question = str(each.get("prompt") or "").strip().partition("\n")[0]
        row = [short(question)]
        row += [short(str(each.get("trial", "-")), _LONGEST_NAME)] if repeated else []
        if answered:
            row += [Text("-") if each.get("unparsed") else short(str("-" if answer is None else answer))]
        if judged:
            row += [short(str(each.get("expected", "-"))), _mark(each.get("correct"))]
        table.add_row(*row)
    return table


def _words(preview: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """What to call the prompts of records, and what was said to them, where anything was."""
    if any("question_id" in each or "correct" in each for each in preview):
        return "question", ["answer"]
    if any(each.get("response") is not None for each in preview):
        return "prompt", ["response"]
    return "text", []


def _mark(correct: Any) -> Text:
    if correct is None:
        return Text("-")
    return Text("right", "green") if correct else Text("wrong", "red")


def _model(of: StoreOverview, run: Mapping[str, Any]) -> str:
    models = list(of.models) or ["-"]
    if len(models) > 1:
        shown = ", ".join(f"{_cut(name)} ({number:,})" for name, number in list(of.models.items())[:_MOST_ROWS])
        return shown + (", ..." if len(models) > _MOST_ROWS else "")
    said = run.get("model")
    known = [said.get(key) for key in ("class", "dtype", "revision")] if isinstance(said, Mapping) else []
    more = ", ".join(str(each) for each in known if each)
    return f"{models[0]} ({more})" if more else models[0]


def _records(of: StoreOverview) -> str:
    number = f"{of.records:,}"
    if of.expected is not None and of.expected != of.records:
        number += f" of {of.expected:,}"
    parts = [count(of.questions, "question")] if of.questions else []
    parts += [count(of.trials, "trial")] if of.trials and of.trials > 1 else []
    parts += [count(of.shards, "shard"), count(of.writers, "writer")]
    return f"{number}: {', '.join(parts)}"


def _settings(said: Any) -> str:
    if not isinstance(said, Mapping):
        return ""
    return ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)


def _capture(said: Any) -> str:
    if not isinstance(said, Mapping):
        return ""
    sites = said.get("sites")
    parts = [summarise(sites)] if isinstance(sites, list) and all(isinstance(each, str) for each in sites) else []
    parts += [f"{key} {said[key]}" for key in ("positions", "reduce", "dtype", "strategy") if said.get(key) is not None]
    return "; ".join(parts)


def _span(first: str, last: str) -> str:
    seconds = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    begin, end = local_time(first), local_time(last)
    said = begin if begin == end else f"{begin} to {end}"
    return said if seconds < 1 else f"{said} ({tables.duration(seconds)})"


def _size(of: StoreOverview) -> str:
    disk = of.bytes_on_disk
    said = f"{decimal(disk['shards'])} of shards ({of.backend})"
    if of.ratio is not None:
        about = "" if of.sites.looked_at == of.sites.shards else "about "
        said += f" for {about}{decimal(of.sites.bytes)} of tensors ({of.ratio:.2f}x)"
    return f"{said}, {decimal(disk['ledger'])} of ledger"


def _origin(origin: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    made = (origin or {}).get("converted")
    if isinstance(made, Mapping):
        changed = {key: value for key, value in made.items() if key != "from" and value not in (None, "all")}
        said = [f"{key} {_value(value)}" for key, value in changed.items()]
        yield "converted from", f"{made.get('from')}: {'; '.join(said)}"
    parts = (origin or {}).get("merged")
    if isinstance(parts, list):
        known = [part for part in parts[:_MOST_ROWS] if isinstance(part, Mapping)]
        shown = [f"{part.get('from') or 'unknown'} ({part.get('records', '?')})" for part in known]
        yield "merged from", ", ".join(shown) + (", ..." if len(parts) > _MOST_ROWS else "")


def _value(said: Any) -> str:
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)


def _state(of: StoreOverview) -> Iterator[tuple[str, str]]:
    if of.writing:
        yield "state", f"{count(len(of.writing), 'process')} writing to it now; this is what was committed until now"
    elif of.expected is not None and of.records < of.expected:
        why = f" ({of.ended})" if of.ended else ""
        yield "state", f"not complete{why}: the same `actframe run` command again goes on from there"
    if of.problems:
        yield "damaged", f"{of.problems}; `actframe verify` says more"
    if of.sites.unreadable:
        yield "unreadable", of.sites.unreadable
    if of.bytes_on_disk["quarantine"]:
        yield "quarantine", f"{decimal(of.bytes_on_disk['quarantine'])} that `actframe repair` moved aside"


def _sites_caption(of: StoreOverview) -> str | None:
    if of.sites.looked_at < of.sites.shards:
        return f"From {of.sites.looked_at} of {of.sites.shards:,} shards; sizes are estimates."
    return None


def _shape(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
