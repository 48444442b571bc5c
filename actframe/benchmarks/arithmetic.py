"""Benchmark `arithmetic`: 72 word problems of our own, of 8 kinds, each with a number as its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from actframe.benchmarks.answers import extract_number
from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import PromptStyle, Scoring
from actframe.benchmarks.sources import bundled_questions

__all__ = ["Arithmetic"]


class Arithmetic(BenchmarkAdapter):
    """Word problems whose answer is one exact number; the kind of problem (`money`, `rates`, ...) is the subject.

    The questions come in rounds of eight, one of each kind, from easy to hard. The metadata of each has `check`, an
    expression that gives the answer.
    """

    name: ClassVar[str] = "arithmetic"
    scorings: Sequence[Scoring] = ("generate",)

    def questions(self) -> Iterable[Question]:
        return bundled_questions("arithmetic.jsonl")

    def instruction(self, question: Question, style: PromptStyle) -> str:
        how = "Think step by step" if style == "reason" else "Show the calculation in one line"
        return f'{how}, then write "The answer is" and the number.'

    def extract_answer(self, response: str, question: Question) -> str | None:
        return extract_number(response, question.text)
