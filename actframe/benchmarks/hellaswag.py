"""Benchmark `hellaswag`: 10,042 beginnings of everyday scenes with four endings each (Zellers et al. 2019)."""

from __future__ import annotations

import re
from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import ContinuationBenchmark
from actframe.benchmarks.prompting import PromptStyle
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["HellaSwag"]

MARK = re.compile(r"\[.*?\]")


class HellaSwag(ContinuationBenchmark):
    """HellaSwag (https://arxiv.org/abs/1905.07830): its `validation` split, since `test` has no answers.

    Texts are cleaned of the marks of WikiHow (`[header]`, `[title]`, `[step]`), and begin with the activity where the
    data have `activity_label`, as in lm-evaluation-harness. The subject is where a scene comes from: `activitynet` or
    `wikihow`.
    """

    name: ClassVar[str] = "hellaswag"
    published = Published(
        hub="Rowan/hellaswag", split="validation", examples="train", columns=("ctx", "endings", "label")
    )

    def read(self, row: Row) -> Question:
        text, activity = row.text("ctx"), row.said("activity_label")
        if "ctx_a" in row.values and "ctx_b" in row.values:
            text = f"{row.said('ctx_a') or ''} {(row.said('ctx_b') or '').capitalize()}"
        choices = tuple(_cleaned(ending) for ending in row.texts("endings"))
        return Question(
            id="",
            text=_cleaned(f"{activity}: {text}" if activity else text),
            answer=row.letter("label", len(choices)),
            choices=choices,
            subject=(row.said("source_id") or "").partition("~")[0] or None,
        )

    def instruction(self, question: Question, style: PromptStyle) -> str:
        return f"Which option continues the text best? {super().instruction(question, style)}"

    def context(self, question: Question) -> str:
        return question.text


def _cleaned(text: str) -> str:
    return MARK.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")
