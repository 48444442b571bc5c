"""Benchmark `general`: 144 multiple-choice questions of our own, from 12 subjects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from actframe.benchmarks.answers import extract_choice
from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Completion, PromptStyle
from actframe.benchmarks.sources import bundled_questions

__all__ = ["General"]


class General(BenchmarkAdapter):
    """General knowledge with four options each; guessing gets a quarter.

    The options are put without their letters, since small models copy letters and not what stands beside them:
    `smollm2` answers A to nearly half of the lettered questions and gets 19% right, without letters 32%. Answers are
    letters all the same, by the option that the response names.

    The questions come in rounds of twelve. Each round has one question of each subject, four of each difficulty
    (`easy`, `medium`, `hard`, in the metadata) and three answers of each letter, so that the first dozen, or any
    other number of whole rounds, stands for the whole.
    """

    name: ClassVar[str] = "general"

    def questions(self) -> Iterable[Question]:
        return bundled_questions("general.jsonl")

    def instruction(self, question: Question, style: PromptStyle) -> str:
        return 'Think step by step, then write "The answer is" and your choice.' if style == "reason" else ""

    def prompt(self, question: Question) -> str:
        options = "\n".join(f"- {choice}" for choice in question.choices)
        return f"{question.text}\nChoose one of these answers:\n{options}"

    def completions(self, question: Question) -> Sequence[Completion]:
        """The options themselves: letters would stand for nothing that the model is shown."""
        return [Completion(f"Question: {question.text}\nAnswer:", f" {choice}") for choice in question.choices]

    def extract_answer(self, response: str, question: Question) -> str | None:
        return extract_choice(response, question.choices, question.letters)
