"""Benchmark `boolq`: 3,270 questions about a passage, answered by yes or no (Clark et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import ContinuationBenchmark
from actframe.benchmarks.prompting import PromptStyle
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["BoolQ"]

CHOICES = ("no", "yes")


class BoolQ(ContinuationBenchmark):
    """BoolQ (https://arxiv.org/abs/1905.10044): its `validation` split, since `test` has no answers.

    The choices are `no` (A) and `yes` (B); models are not shown these letters. The passage is in the metadata.
    """

    name: ClassVar[str] = "boolq"
    published = Published(
        hub="google/boolq", split="validation", examples="train", columns=("question", "passage", "answer")
    )

    def read(self, row: Row) -> Question:
        said = (row.said("answer") or "").strip().lower()
        known = {"false": "A", "true": "B", "no": "A", "yes": "B", "0": "A", "1": "B", "": ""}
        if said not in known:
            raise row.error(f"'answer' should be true or false, not {row.values['answer']!r}")
        passage = row.text("passage")
        return Question("", row.text("question"), known[said], CHOICES, metadata={"passage": passage})

    def prompt(self, question: Question) -> str:
        mark = "" if question.text.rstrip().endswith("?") else "?"
        return f"{question.metadata['passage']}\nQuestion: {question.text}{mark}"

    def instruction(self, question: Question, style: PromptStyle) -> str:
        if style == "reason":
            return 'Think step by step, then write "The answer is" and yes or no.'
        return "Answer with yes or no."

    def reference(self, question: Question, style: PromptStyle) -> str:
        answer = CHOICES[question.letters.index(question.answer)]
        return answer if style == "direct" else f"The answer is {answer}."

    def context(self, question: Question) -> str:
        return f"{question.metadata['passage']}\nQuestion: {question.text}?\nAnswer:"
