"""What a run leaves in its folder: a line for each answer as it comes, and the results at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from actframe.errors import StorageError
from actframe.runs.statistics import Summary, summarize, summarize_by_subject
from actframe.storage.atomic import replacing

__all__ = [
    "ANSWERS",
    "ANSWER_KEYS",
    "DERIVED",
    "RESULTS",
    "AnswerLog",
    "RunResult",
    "set_aside_earlier",
    "write_results",
]

ANSWERS = "answers.jsonl"
RESULTS = "results.json"
FORMAT = "results/2"

DERIVED = ("format", "partial", "reason", "failures", "summary", "by_subject", "answers", "output_tokens", "too_long")
"""What results say that is computed from the answers or the questions each time; the rest is about the sittings."""

ANSWER_KEYS = (
    "question_id",
    "trial",
    "subject",
    "prompt",
    "response",
    "expected",
    "extracted_answer",
    "vote",
    "correct",
    "unparsed",
    "truncated",
    "metrics",
    "loglikelihoods",
    "greedy",
    "prompt_tokens",
    "output_tokens",
    "chance",
    "metrics",
)
"""What an answer says, as far as it is known; its record says the same, and more."""


@dataclass(frozen=True)
class RunResult:
    """How a run went.

    Attributes:
        circumstances: model, benchmark, settings, versions, sittings: JSON-safe.
        answers: one dictionary for each answer, trial by trial in the order of the questions; of a store they are read
            when they are asked for.
        graded: the same with no more than what statistics need, where `answers` are on disk; else None.
        partial: answers are missing.
        reason: what ended a partial run; else None.
        new: how many of the answers were given in this sitting.
        failures: answers that were left out because they failed: why, by what messages call them.
    """

    circumstances: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]
    graded: Sequence[Mapping[str, Any]] | None = None
    partial: bool = False
    reason: str | None = None
    new: int = 0
    failures: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def summary(self) -> Summary | None:
        """Accuracy with its error bars; None where no answer was judged, as before the first one."""
        return summarize(self._graded) if any(each["correct"] is not None for each in self._graded) else None

    @cached_property
    def by_subject(self) -> dict[str, Summary]:
        """A summary of each subject, by name."""
        return summarize_by_subject(self._graded)

    @property
    def _graded(self) -> Sequence[Mapping[str, Any]]:
        return self.answers if self.graded is None else self.graded

    def as_json(self) -> dict[str, Any]:
        """What `results.json` holds."""
        summary = self.summary
        return {
            "format": FORMAT,
            "partial": self.partial,
            "reason": self.reason,
            "failures": dict(self.failures),
            **self.circumstances,
            "summary": None if summary is None else asdict(summary),
            "by_subject": {subject: asdict(each) for subject, each in self.by_subject.items()},
        }

    def encoded(self) -> bytes:
        """The same as the text of a file."""
        return (json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n").encode()


class AnswerLog:
    """`answers.jsonl` while a run writes it: one line for each answer, complete as soon as it is there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ANSWERS
        with _errors(self._path):
            # Unbuffered: a buffer would keep a line that the disk had no room for, and try again at every turn.
            self._file = self._path.open("xb", buffering=0)
        self._size = 0

    @property
    def size(self) -> int:
        """How many bytes the lines have."""
        return self._size

    def append(self, answer: Mapping[str, Any]) -> None:
        """Hand one line to the system; after an error nothing of it remains."""
        line = json.dumps(answer, ensure_ascii=False).encode() + b"\n"
        with _errors(self._path):
            start = self._file.tell()
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                self._file.truncate(start)
                self._file.seek(start)
                raise
            self._size = self._file.tell()

    def sync(self) -> None:
        """Wait until every line is on disk."""
        with _errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_results(result: RunResult, folder: Path) -> Path:
    """Write `results.json` in one step."""
    path = folder / RESULTS
    with _errors(path), replacing(path, ".json") as temporary:
        temporary.write_bytes(result.encoded())
    return path


def set_aside_earlier(folder: Path) -> None:
    """Rename what an earlier run left here, so that two runs never mix: `answers.20240915_143022.jsonl`."""
    for name in (ANSWERS, RESULTS):
        path = folder / name
        with _errors(path):
            if not path.exists():
                continue
            moment = datetime.fromtimestamp(path.stat().st_mtime)
            kept = path.with_name(f"{path.stem}.{moment:%Y%m%d_%H%M%S_%f}{path.suffix}")
            if kept.exists():
                raise StorageError(f"{kept} is there already; move it or {path.name} away")
            path.rename(kept)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Say which file the system had trouble with."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        failure = StorageError(f"cannot write {path}: {error.strerror or error}")
        failure.errno = error.errno
        raise failure from error
