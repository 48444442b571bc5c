"""What a benchmark asks and how it grades, kept from harming a run when an adapter breaks its contract."""

from __future__ import annotations

import warnings
from itertools import islice
from typing import Any

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.errors import BenchmarkError
from actframe.runs.generation import Response

__all__ = ["grade", "make_prompt", "take_questions"]


def take_questions(benchmark: BenchmarkAdapter, limit: int | None = None) -> list[Question]:
    """The first questions of a benchmark (None: all).

    Raises:
        BenchmarkError: there are none, or two have one id.
    """
    questions = list(islice(benchmark.questions(), limit))
    if not questions:
        raise BenchmarkError(f"benchmark {benchmark.name!r} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise BenchmarkError(
                f"benchmark {benchmark.name!r} has two questions with the id {question.id!r}; "
                f"answers and activations are joined by it"
            )
        seen.add(question.id)
    return questions


def make_prompt(benchmark: BenchmarkAdapter, question: Question) -> str:
    """The prompt of a question.

    Raises:
        BenchmarkError: the adapter raised; the message names the question.
    """
    try:
        return benchmark.prompt(question)
    except Exception as error:
        raise BenchmarkError(
            f"benchmark {benchmark.name!r} failed to make the prompt of question {question.id!r}: "
            f"{type(error).__name__}: {error}"
        ) from error


def grade(benchmark: BenchmarkAdapter, question: Question, response: Response) -> dict[str, Any]:
    """What a benchmark says about one response, under the keys of a record.

    An adapter that raises on a response, which its contract forbids, costs this answer and not the run: the answer
    counts as unparsed, with a warning that names the question.
    """
    answer, correct = None, False
    try:
        answer = benchmark.extract_answer(response.text, question)
        correct = bool(benchmark.score(answer, question))
    except Exception as error:
        warnings.warn(
            f"benchmark {benchmark.name!r} failed on the response to question {question.id!r} "
            f"({type(error).__name__}: {error}); it counts as unparsed",
            RuntimeWarning,
            stacklevel=2,
        )
        answer = None
    return {
        "question_id": question.id,
        "subject": question.subject,
        "expected": question.answer,
        "extracted_answer": answer,
        "correct": correct,
        "unparsed": answer is None,
        "truncated": response.truncated,
    }
