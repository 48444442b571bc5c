"""Reading the results of runs from where they are: never a tensor, and also while a run goes on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actframe.errors import BenchmarkError, FormatError, StorageError
from actframe.runs.comparison import Comparison, compare_answers
from actframe.runs.ledger_answers import AnswerGroup, LedgerAnswers, graded_answer, group_answers
from actframe.runs.results import ANSWERS, DERIVED, RESULTS, RunResult
from actframe.storage.finding import expected_answers, names_in_run
from actframe.storage.folders import StoreFolder, store_folder
from actframe.storage.identity import is_store, read_identity
from actframe.storage.ledger import Ledger

__all__ = ["StoredResults", "compare_results", "read_results"]


@dataclass(frozen=True)
class StoredResults:
    """How a run went, or goes, as its folder tells.

    Attributes:
        location: the absolute path or the URL.
        model: who answered; None where nothing says it.
        benchmark: who asked; None where nothing says it, as in answers.jsonl before the end of its run.
        run: what defines the run: `run.json`; None where there is none.
        result: the answers so far, and what they say.
    """

    location: str
    model: str | None
    benchmark: str | None
    run: Mapping[str, Any] | None
    result: RunResult

    def as_json(self) -> dict[str, Any]:
        """What `results.json` would hold, had the run ended now, and where it is."""
        return {"location": self.location, **self.result.as_json()}


def read_results(*locations: Path | str) -> list[StoredResults]:
    """The results of the runs in some folders, from the answers that are there at this moment.

    A store that was merged from several runs, or holds the answers of several models, gives one for each.

        before, after = read_results("runs/base", "runs/tuned")
        print(after.result.summary.accuracy - before.result.summary.accuracy)

    Args:
        locations: stores, also behind URLs, or folders of runs with the layout `files`.

    Raises:
        StorageError: there is no run, or it has no answers yet.
        FormatError: what is there cannot be read.
    """
    return [found for location in locations for found in _read(store_folder(location))]


def _read(folder: StoreFolder) -> Iterator[StoredResults]:
    if is_store(folder):
        yield from _read_store(folder)
    elif ANSWERS in folder.sizes(""):
        yield _read_files(folder)
    else:
        there = f"neither a store nor {ANSWERS} is there" if folder.exists() else "nothing is there"
        raise StorageError(f"there are no results at {folder.location}: {there}")


def _read_store(folder: StoreFolder) -> Iterator[StoredResults]:
    identity = read_identity(folder)
    ledger = Ledger(folder)
    ledger.refresh()
    _warn_of_problems(folder, ledger)
    groups = group_answers(ledger, identity.origin)
    if not groups:
        held = f"none of its {len(ledger):,} records says whether it is right" if len(ledger) else "it has no record"
        raise StorageError(f"the store {folder.location} has no answers: {held}")
    run = identity.run if isinstance(identity.run, dict) else None
    merged = run["merged"] if run and isinstance(run.get("merged"), list) else None
    for group in groups:
        alone = merged is None and len(groups) == 1
        of_group = run if merged is None else merged[group.run] if group.run < len(merged) else None
        yield _results_of(folder, ledger, group, of_group, alone)


def _results_of(
    folder: StoreFolder, ledger: Ledger, group: AnswerGroup, run: Mapping[str, Any] | None, alone: bool
) -> StoredResults:
    """One run of a store; `alone` where all of the store is of it, so that what lies beside the ledger is too."""
    models, benchmarks = names_in_run(run)
    model, benchmark = group.model or next(iter(models), None), next(iter(benchmarks), None)
    earlier = _written_results(folder) if alone else {}
    done, total = len(group.numbers), _total(earlier) or (expected_answers(run) if alone else None)
    partial = total is not None and done < total
    reason = None
    if partial:
        writing = any(folder.has_writer(f"ledger/{name}") for name in folder.sizes("ledger"))
        reason = "it is still running" if writing else earlier.get("reason")
    circumstances = _circumstances(earlier)
    circumstances |= {"model": model, "benchmark": benchmark}
    result = _result(circumstances, LedgerAnswers(ledger, group.numbers), group.graded, total, partial, reason)
    return StoredResults(folder.location, model, benchmark, run, result)


def _read_files(folder: StoreFolder) -> StoredResults:
    answers = _answers_in(folder)
    if not answers:
        raise StorageError(f"{ANSWERS} of {folder.location} has no answers yet")
    written = _written_results(folder)
    circumstances = _circumstances(written)
    model, benchmark = (written.get(key) for key in ("model", "benchmark"))
    # Written at the end of each run; what an earlier run left is set aside before the first answer.
    partial = bool(written.get("partial", True))
    reason = written.get("reason") if written else f"it is still running, or was ended before it wrote {RESULTS}"
    graded = [graded_answer(each) for each in answers]
    result = _result(circumstances, answers, graded, _total(written), partial, reason)
    return StoredResults(folder.location, model, benchmark, None, result)


def _result(
    circumstances: Mapping[str, Any], answers: Any, graded: Any, total: int | None, partial: bool, reason: str | None
) -> RunResult:
    tokens = sum(answer["output_tokens"] or 0 for answer in graded)
    counted = {"answers": {"done": len(answers), "total": total}, "output_tokens": tokens}
    return RunResult({**circumstances, **counted}, answers, graded, partial, reason)


def _written_results(folder: StoreFolder) -> Mapping[str, Any]:
    """`results.json`; empty where it is not there or cannot be read: the answers say what matters."""
    if RESULTS not in folder.sizes(""):
        return {}
    try:
        found = json.loads(folder.read(RESULTS))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _circumstances(written: Mapping[str, Any]) -> dict[str, Any]:
    """What results say and answers do not."""
    return {key: value for key, value in written.items() if key == "too_long" or key not in DERIVED}


def _total(written: Mapping[str, Any]) -> int | None:
    """How many answers the run has when it is complete, as far as its results say."""
    counts = written.get("answers")
    total = counts.get("total") if isinstance(counts, Mapping) else None
    return total if isinstance(total, int) else None


def _answers_in(folder: StoreFolder) -> list[dict[str, Any]]:
    """The lines of `answers.jsonl`, of each question and trial the first."""
    lines = folder.read(ANSWERS).split(b"\n")
    # What follows the last newline is a line that is being written, or was when the machine stopped.
    found: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            answer = json.loads(line)
            key = answer["question_id"], answer["trial"]
            if "correct" not in answer:
                raise KeyError("correct")
            found.setdefault(key, answer)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FormatError(f"line {number} of {folder.location}/{ANSWERS} is no answer: {error!r}") from error
    return list(found.values())


def _warn_of_problems(folder: StoreFolder, ledger: Ledger) -> None:
    problems = ledger.problems
    if problems.damaged or problems.missing:
        warnings.warn(
            f"the ledger of {folder.location} was not read whole ({problems}); `actframe verify` says more",
            RuntimeWarning,
            stacklevel=4,
        )


def compare_results(first: StoredResults, second: StoredResults) -> Comparison:
    """How much more accurate the second run is than the first (see `compare_answers`).

    Raises:
        BenchmarkError: they are of different benchmarks, or one has no answers that were judged.
    """
    if None not in (first.benchmark, second.benchmark) and first.benchmark != second.benchmark:
        raise BenchmarkError(
            f"{first.location} answers {first.benchmark} and {second.location} answers {second.benchmark}: accuracies "
            f"on different benchmarks are not compared"
        )
    return compare_answers(first.result.graded or (), second.result.graded or ())
