"""Benchmark `commonsense_qa`: 1,221 questions of common sense with five choices each (Talmor et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import LabelledChoices
from actframe.benchmarks.prompting import Completion
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["CommonsenseQA"]


class CommonsenseQA(LabelledChoices):
    """CommonsenseQA (https://arxiv.org/abs/1811.00937): its `validation` split, since `test` has no answers."""

    name: ClassVar[str] = "commonsense_qa"
    published = Published(
        hub="tau/commonsense_qa",
        split="validation",
        examples="train",
        columns=("question", "choices", "answerKey"),
    )

    def read(self, row: Row) -> Question:
        question = super().read(row)
        return replace(question, text=question.text.strip())

    def completions(self, question: Question) -> Sequence[Completion]:
        lettered = super().completions(question)
        return [Completion(f"Question: {each.context}", each.continuation) for each in lettered]
