"""Benchmark `arc_easy`: 2,376 easy questions of school science with three to five choices (Clark et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import LabelledContinuations
from actframe.benchmarks.published import Published

__all__ = ["ARCEasy"]


class ARCEasy(LabelledContinuations):
    """The easy set of the AI2 Reasoning Challenge (https://arxiv.org/abs/1803.05457)."""

    name: ClassVar[str] = "arc_easy"
    published = Published(
        hub="allenai/ai2_arc",
        configuration="ARC-Easy",
        split="test",
        examples="train",
        columns=("question", "choices", "answerKey"),
    )

    def context(self, question: Question) -> str:
        return f"Question: {question.text}\nAnswer:"
