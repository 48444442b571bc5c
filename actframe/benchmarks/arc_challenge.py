"""Benchmark `arc_challenge`: 1,172 hard questions of school science with three to five choices (Clark et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import LabelledContinuations
from actframe.benchmarks.published import Published

__all__ = ["ARCChallenge"]


class ARCChallenge(LabelledContinuations):
    """The challenge set of the AI2 Reasoning Challenge (https://arxiv.org/abs/1803.05457)."""

    name: ClassVar[str] = "arc_challenge"
    published = Published(
        hub="allenai/ai2_arc",
        configuration="ARC-Challenge",
        split="test",
        examples="train",
        columns=("question", "choices", "answerKey"),
    )

    def context(self, question: Question) -> str:
        return f"Question: {question.text}\nAnswer:"
