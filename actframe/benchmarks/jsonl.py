"""Benchmark `jsonl`: questions of the user's own, in a file."""

from __future__ import annotations

from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.own import OwnQuestions, question_in
from actframe.benchmarks.published import DatasetBenchmark, Published
from actframe.benchmarks.row import Row
from actframe.errors import BenchmarkError

__all__ = ["OwnFile"]


class OwnFile(OwnQuestions, DatasetBenchmark):
    """Any file, or folder of files, whose rows have `question` and what else `question_in` reads.

    JSON lines, Parquet, CSV and what else `rows` reads. Examples come from the questions themselves. Two rows that ask
    the same are refused.
    """

    name: ClassVar[str] = "jsonl"
    published = Published(hub="", split="test", examples="test", columns=("question",))

    def __init__(
        self, data: str | None = None, split: str | None = None, *, revision: str | None = None, seed: int = 0
    ) -> None:
        if data is None:
            raise BenchmarkError(
                "benchmark 'jsonl' reads questions of your own: say where they are, by --benchmark questions.jsonl or "
                "--benchmark jsonl --data PATH (data=PATH in Python)"
            )
        super().__init__(data, split, revision=revision, seed=seed)

    def read(self, row: Row) -> Question:
        return question_in(row, self.name)
