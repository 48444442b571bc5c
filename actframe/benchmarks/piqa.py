"""Benchmark `piqa`: 1,838 everyday goals with two ways to reach them (Bisk et al. 2020)."""

from __future__ import annotations

from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import ContinuationBenchmark
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["PIQA"]

UNKNOWN = -1


class PIQA(ContinuationBenchmark):
    """Physical Interaction: Question Answering (https://arxiv.org/abs/1911.11641): its `validation` split.

    The split `test` has no answers: its label is -1.
    """

    name: ClassVar[str] = "piqa"
    published = Published(
        hub="baber/piqa", split="validation", examples="train", columns=("goal", "sol1", "sol2", "label")
    )

    def read(self, row: Row) -> Question:
        answer = "" if row.values["label"] in (UNKNOWN, str(UNKNOWN)) else row.letter("label", 2)
        return Question("", row.text("goal"), answer, (row.text("sol1"), row.text("sol2")))

    def context(self, question: Question) -> str:
        return f"Question: {question.text}\nAnswer:"
