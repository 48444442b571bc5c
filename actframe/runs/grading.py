"""What a benchmark asks and how it grades, kept from harming a run when an adapter breaks its contract."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from itertools import islice
from typing import TYPE_CHECKING, Any

from actframe.benchmarks.base import BenchmarkAdapter, Question, Verdict
from actframe.benchmarks.prompting import Message, Prompting
from actframe.errors import ActframeError, BenchmarkError, nearest

if TYPE_CHECKING:
    from actframe.runs.generation import Response

__all__ = ["grade", "make_conversation", "stops_of", "take_questions"]


def take_questions(
    benchmark: BenchmarkAdapter, limit: int | None = None, subjects: Collection[str] | None = None
) -> list[Question]:
    """The first questions of a benchmark (None: all), of some subjects (None: of all).

    Raises:
        BenchmarkError: there are none, two have one id, one has no text, or there is no such subject.
    """
    if subjects is None:
        questions = list(islice(benchmark.questions(), limit))
    else:
        every = list(benchmark.questions())
        known = list(dict.fromkeys(each.subject for each in every if each.subject))
        if unknown := [each for each in subjects if each not in known]:
            raise BenchmarkError(
                f"benchmark {benchmark.name!r} has no subject {unknown[0]!r}{nearest(unknown[0], known)}; "
                f"it has {', '.join(known) or 'none'}"
            )
        questions = [each for each in every if each.subject in subjects][:limit]
    if not questions:
        raise BenchmarkError(f"benchmark {benchmark.name!r} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise BenchmarkError(
                f"benchmark {benchmark.name!r} has two questions with the id {question.id!r}; "
                f"answers and activations are joined by it"
            )
        if not question.text.strip():
            raise BenchmarkError(f"question {question.id!r} of {benchmark.name!r} has no text")
        seen.add(question.id)
    return questions


def make_conversation(benchmark: BenchmarkAdapter, question: Question, prompting: Prompting) -> list[Message]:
    """What a model is given for a question; the last message is the question's own.

    Raises:
        BenchmarkError: the adapter raised, or returned something else; the message names the question.
    """
    try:
        messages = list(benchmark.conversation(question, prompting))
        if not messages or not all(isinstance(each, Message) for each in messages):
            raise TypeError(f"conversation should return messages, not {messages!r:.80}")
    except ActframeError:
        raise
    except Exception as error:
        raise BenchmarkError(
            f"benchmark {benchmark.name!r} failed to make the prompt of question {question.id!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return messages


def stops_of(benchmark: BenchmarkAdapter, question: Question) -> tuple[str, ...]:
    """The texts that end the response to a question.

    Raises:
        BenchmarkError: the adapter gave something else.
    """
    stops = benchmark.stops(question)
    if isinstance(stops, str) or not all(isinstance(each, str) and each for each in stops):
        raise BenchmarkError(
            f"benchmark {benchmark.name!r} should stop question {question.id!r} at a list of texts that are not "
            f"empty, not at {stops!r:.80}"
        )
    return tuple(stops)


def grade(benchmark: BenchmarkAdapter, question: Question, response: Response) -> dict[str, Any]:
    """What a benchmark says about one response, under the keys of a record.

    An adapter that raises on a response, which its contract forbids, costs this answer and not the run: the answer
    counts as unparsed, with a warning that names the question.
    """
    ranked = response.likelihoods

    def judge() -> Verdict:
        if ranked:
            return benchmark.judge_choices(ranked, question)
        return benchmark.judge(response.begun + response.text, question)

    verdict = _verdict(benchmark, question, judge)
    said: dict[str, Any] = {
        "question_id": question.id,
        "subject": question.subject,
        "expected": question.answer or None,
        "extracted_answer": verdict.answer,
        "correct": bool(verdict.correct) if question.answer else None,
        "unparsed": verdict.answer is None,
        "truncated": response.truncated,
        "metrics": dict(verdict.metrics),
    }
    if (vote := _vote(benchmark, question, verdict)) not in (None, verdict.answer):
        said["vote"] = vote
    if ranked:
        said["loglikelihoods"] = [each.loglikelihood for each in ranked]
        said["greedy"] = [each.greedy for each in ranked]
    return said


def _vote(benchmark: BenchmarkAdapter, question: Question, verdict: Verdict) -> str | None:
    """What an answer is counted as beside others to its question; None where nobody asks."""
    if verdict.answer is None or verdict.correct:
        return None
    try:
        return benchmark.vote(verdict.answer, question)
    except Exception as error:
        warnings.warn(
            f"benchmark {benchmark.name!r} failed to say what the answer to question {question.id!r} votes for "
            f"({type(error).__name__}: {error}); it votes for itself",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _verdict(benchmark: BenchmarkAdapter, question: Question, judge: Callable[[], Verdict]) -> Verdict:
    try:
        return judge()
    except Exception as error:
        warnings.warn(
            f"benchmark {benchmark.name!r} failed on the response to question {question.id!r} "
            f"({type(error).__name__}: {error}); it counts as unparsed",
            RuntimeWarning,
            stacklevel=3,
        )
        return Verdict(None, False)
