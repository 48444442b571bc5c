"""BenchmarkAdapter and Question, the contract of a benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from actframe.extension import Extension

__all__ = ["LETTERS", "BenchmarkAdapter", "Question"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: unique within the benchmark and the same in every run: answers and activations are joined by it.
        text: the question alone, without choices or instructions.
        answer: the expected answer in the form that `extract_answer` returns: a letter, a number.
        choices: the options of a multiple-choice question, in the order of their letters.
        subject: what results are broken down by.
        metadata: anything else, JSON-safe.
    """

    id: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()
    subject: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def letters(self) -> str:
        """The letters of the choices: `"ABCD"` for four."""
        return LETTERS[: len(self.choices)]


class BenchmarkAdapter(Extension, ABC):
    """A benchmark: its questions, how they are put to a model, and how answers are read and scored.

    Subclass it with `questions` and `extract_answer`; the other two have defaults. Adapters know nothing of models
    or activations, and must be picklable.
    """

    kind: ClassVar[str] = "benchmark"

    @abstractmethod
    def questions(self) -> Iterable[Question]:
        """All questions, in the same order at every call."""

    def prompt(self, question: Question) -> str:
        """The text put to the model, before any chat template: by default the question and its lettered choices."""
        if not question.choices:
            return question.text
        lines = [f"{letter}. {choice}" for letter, choice in zip(question.letters, question.choices, strict=True)]
        return "\n".join([question.text, *lines, "Answer with the letter of the correct option."])

    @abstractmethod
    def extract_answer(self, response: str, question: Question) -> str | None:
        """The answer in its canonical form, or None where the response gives none. Never raises on any text."""

    def score(self, answer: str | None, question: Question) -> bool:
        """Whether an extracted answer is right: by default, equality with `question.answer`."""
        return answer == question.answer
