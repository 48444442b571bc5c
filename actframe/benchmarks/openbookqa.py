"""Benchmark `openbookqa`: 500 questions of elementary science with four choices each (Mihaylov et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import LabelledContinuations
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["OpenBookQA"]


class OpenBookQA(LabelledContinuations):
    """OpenBookQA (https://arxiv.org/abs/1809.02789), without the book.

    Many questions are the beginnings of sentences: ranked by log-likelihood, choices go on from the question itself.
    """

    name: ClassVar[str] = "openbookqa"
    published = Published(
        hub="allenai/openbookqa",
        configuration="main",
        split="test",
        examples="train",
        columns=("choices", "answerKey"),
    )

    def text_column(self, row: Row) -> str:
        return "question" if "question" in row.values else "question_stem"

    def context(self, question: Question) -> str:
        return question.text
