"""What is in a store, in numbers: for people who look at one."""

from __future__ import annotations

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy

from actframe.errors import StorageError
from actframe.runs.ledger_answers import AnswerGroup, group_answers
from actframe.runs.statistics import Summary, summarize, summarize_by_subject
from actframe.runs.stored_sites import StoredSites, stored_sites
from actframe.storage.finding import expected_records, names_in_run
from actframe.storage.identity import IDENTITY, RESULTS, read_identity
from actframe.storage.keys import writer_of
from actframe.storage.ledger import Ledger
from actframe.storage.ledger_lines import MISSING
from actframe.storage.receipts import Receipt
from actframe.storage.store import ActivationStore

__all__ = ["StoreOverview", "describe_store"]

PREVIEW = 5
SHARDS_FOR_TIMES = 1000

PREVIEW_KEYS = (
    *("question_id", "trial", "choice", "choice_text", "prompt", "response"),
    *("expected", "extracted_answer", "correct", "unparsed"),
)


@dataclass(frozen=True)
class StoreOverview:
    """What is in a store.

    Attributes:
        location: the absolute path or the URL.
        backend: the storage backend of new shards.
        created: when it was begun, ISO 8601.
        run: what defines its run, or None.
        origin: what it was made from, if from other stores.
        benchmarks: the names of those that were answered.
        models: how many records each model has; without any record, those that the run names.
        records, shards, writers: how many there are.
        expected: how many records its run has when it is complete; None where nothing says so.
        ended: why its run ended early, as far as it says so itself.
        questions, trials: how many different ones; None where records name none.
        accuracy: a summary for each model (and each run, in a store that was merged from several).
        by_subject: a summary of each subject, where there is one model; else empty.
        first, last: the earliest and the latest record, ISO 8601.
        receipts: how the records were computed and taken, each way once.
        sites: what tensors there are, and how large.
        bytes_on_disk: the size of the files, by folder: shards, ledger, quarantine.
        writing: the ledgers that a process has open which is known to run.
        problems: what is lost or was left out when the ledger was read, in words.
        preview: what the first records say.
    """

    location: str
    backend: str
    created: str | None
    run: dict[str, Any] | None
    origin: dict[str, Any] | None
    benchmarks: tuple[str, ...]
    models: dict[str, int]
    records: int
    shards: int
    writers: int
    expected: int | None
    ended: str | None
    questions: int | None
    trials: int | None
    accuracy: dict[str, Summary]
    by_subject: dict[str, Summary]
    first: str | None
    last: str | None
    receipts: tuple[Receipt, ...]
    sites: StoredSites
    bytes_on_disk: dict[str, int]
    writing: tuple[str, ...]
    problems: str | None
    preview: tuple[dict[str, Any], ...]

    @property
    def ratio(self) -> float | None:
        """How many bytes of tensors there are for each byte of the shards; None where there are no tensors."""
        disk = self.bytes_on_disk["shards"]
        return self.sites.bytes / disk if disk and self.sites.bytes else None

    def as_json(self) -> dict[str, Any]:
        """The same in JSON-safe form."""
        looked = {"shards_looked_at": self.sites.looked_at, "unreadable": self.sites.unreadable}
        tensors = {"tensor_bytes": self.sites.bytes, "ratio": self.ratio}
        lists = {"receipts": [each.as_json() for each in self.receipts]}
        lists["sites"] = [asdict(site) for site in self.sites.sites]
        return {**asdict(self), **lists, **looked, **tensors}


def describe_store(store: ActivationStore) -> StoreOverview:
    """Describe a store. Reads some columns of its ledger, and of its shards what they say of their tensors."""
    folder, ledger = store.folder, store.ledger
    identity = read_identity(folder)
    known = ledger.keys() if len(ledger) else []
    questions, trials = _counts(ledger, known)
    with _no_collection():
        by_label = _by_label(group_answers(ledger, identity.origin), identity.run)
        accuracy = {label: summarize(graded) for label, graded in by_label.items()}
        by_subject = summarize_by_subject(next(iter(by_label.values()))) if len(by_label) == 1 else {}
    named = ledger.column("model") if "model" in known else ()
    counted = Counter(str(model) for model in named if model not in (MISSING, None))
    models, benchmarks = names_in_run(identity.run)
    first, last = _times(ledger) if "timestamp" in known else (None, None)
    return StoreOverview(
        location=store.location,
        backend=store.backend,
        created=identity.created,
        run=identity.run,
        origin=identity.origin,
        benchmarks=benchmarks,
        models=dict(counted) if len(ledger) else dict.fromkeys(models, 0),
        records=len(ledger),
        shards=len(ledger.shards),
        writers=len(set(map(writer_of, ledger.shards))),
        expected=None if identity.origin else expected_records(identity.run),
        ended=_ended(store),
        questions=questions,
        trials=trials,
        accuracy=accuracy,
        by_subject=by_subject,
        first=first,
        last=last,
        receipts=tuple(store.receipts()),
        sites=stored_sites(store),
        bytes_on_disk={below: sum(folder.sizes(below).values()) for below in ("shards", "ledger", "quarantine")},
        writing=tuple(name for name in folder.sizes("ledger") if folder.has_writer(f"ledger/{name}")),
        problems=_problems(store),
        preview=tuple(
            {key: entry[key] for key in PREVIEW_KEYS if key in entry}
            for entry in ledger.entries(range(min(PREVIEW, len(ledger))))
        ),
    )


def _by_label(groups: Sequence[AnswerGroup], run: Any) -> dict[str, list[dict[str, Any]]]:
    """The answers of each model and run, under a name with no more than it takes to tell them apart.

    Where none of them was judged there is nothing to say of them.
    """
    groups = [group for group in groups if any(each["correct"] is not None for each in group.graded)]
    merged = run["merged"] if isinstance(run, Mapping) and isinstance(run.get("merged"), list) else []
    names = []
    for group in groups:
        benchmarks = names_in_run(merged[group.run])[1] if group.run < len(merged) else ()
        names.append(", ".join([group.model or "all", *benchmarks]))
    labels = (
        f"{name}, run {group.run}" if names.count(name) > 1 else name for group, name in zip(groups, names, strict=True)
    )
    return {label: group.graded for label, group in zip(labels, groups, strict=True)}


def _counts(ledger: Ledger, known: Sequence[str]) -> tuple[int | None, int | None]:
    """How many questions and trials there are."""
    questions, trials = (
        len({str(value) for value in ledger.column(key) if value is not MISSING}) if key in known else None
        for key in ("question_id", "trial")
    )
    return questions, trials


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking through a million small dictionaries again and again, at the cost of all the rest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _times(ledger: Ledger) -> tuple[str | None, str | None]:
    """When the first and the last record were made: records stand in a shard in the order in which they were."""
    owners: Any = ledger.shard_numbers
    _, begins = numpy.unique(owners, return_index=True)
    _, ends = numpy.unique(owners[::-1], return_index=True)
    numbers = numpy.unique(numpy.concatenate((begins, len(owners) - 1 - ends)))
    step = -(-len(numbers) // (2 * SHARDS_FOR_TIMES))
    numbers = numpy.unique(numpy.append(numbers[::step], numbers[-1]))
    found = []
    for entry in ledger.entries(numbers):
        try:
            moment = datetime.fromisoformat(entry["timestamp"])
        except (KeyError, TypeError, ValueError):
            continue
        found.append(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return (min(found).isoformat(), max(found).isoformat()) if found else (None, None)


def _problems(store: ActivationStore) -> str | None:
    found = [] if IDENTITY in store.folder.sizes("") else [f"its {IDENTITY} is lost"]
    found += [str(store.ledger.problems)] if store.ledger.problems else []
    return ", ".join(found) or None


def _ended(store: ActivationStore) -> str | None:
    """Why the run of the store ended before its end, if its results say that it did."""
    if RESULTS not in store.folder.sizes(""):
        return None
    try:
        results = json.loads(store.folder.read(RESULTS))
        return str(results["reason"]) if results["partial"] and results["reason"] else None
    except (StorageError, ValueError, TypeError, KeyError):
        return None
