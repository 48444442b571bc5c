"""What kinds of benchmarks from data sets have in common: choices, numbers, and choices that continue a text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from actframe.benchmarks.answers import extract_choice, extract_number
from actframe.benchmarks.base import LETTERS, Question
from actframe.benchmarks.prompting import Completion, Prompting, PromptStyle, Scoring
from actframe.benchmarks.published import DatasetBenchmark
from actframe.benchmarks.row import Row

__all__ = ["ChoiceBenchmark", "ContinuationBenchmark", "LabelledChoices", "LabelledContinuations", "NumberBenchmark"]


class ChoiceBenchmark(DatasetBenchmark):
    """Questions with lettered choices: the answer is a letter, also where the response names a choice by its text."""

    def extract_answer(self, response: str, question: Question) -> str | None:
        return extract_choice(response, question.choices, question.letters)

    def preface(self, question: Question) -> str:
        """What stands before everything else where choices are ranked by log-likelihood; by default nothing."""
        return ""

    def ranking(self, question: Question, prompting: Prompting) -> Sequence[Completion]:
        before = [part for part in (prompting.system, self.preface(question)) if part]
        return super().ranking(question, replace(prompting, system="\n\n".join(before) or None))


class ContinuationBenchmark(ChoiceBenchmark):
    """Choices that are ranked as continuations of a text, by their own words and not by letters."""

    @abstractmethod
    def context(self, question: Question) -> str:
        """The text that each choice continues, after a space."""

    def completions(self, question: Question) -> Sequence[Completion]:
        context = self.context(question)
        return [Completion(context, f" {choice}") for choice in question.choices]


class LabelledChoices(ChoiceBenchmark):
    """Rows with `choices` as texts with labels, one of which is `answerKey`: ARC, OpenBookQA, CommonsenseQA.

    Labels may be letters or numbers; the letters of a question are always A, B, ... in the order of its choices.
    """

    def text_column(self, row: Row) -> str:
        """Where the question stands."""
        return "question"

    def read(self, row: Row) -> Question:
        choices, labels = row.labelled("choices")
        key = (row.said("answerKey") or "").strip()
        if key and key not in labels:
            raise row.error(f"'answerKey' is {key!r}, which is none of the labels {', '.join(labels)}")
        answer = LETTERS[labels.index(key)] if key and len(labels) <= len(LETTERS) else ""
        return Question(row.said("id") or "", row.text(self.text_column(row)), answer, choices)


class LabelledContinuations(LabelledChoices, ContinuationBenchmark):
    """Such rows, ranked as continuations."""


class NumberBenchmark(DatasetBenchmark):
    """Questions whose answer is one number, in the form of `canonical_number`."""

    scorings: Sequence[Scoring] = ("generate",)

    def instruction(self, question: Question, style: PromptStyle) -> str:
        if style == "reason":
            return 'Think step by step, then write "The answer is" and the number.'
        return "Answer with the number alone."

    def extract_answer(self, response: str, question: Question) -> str | None:
        return extract_number(response, question.text)
