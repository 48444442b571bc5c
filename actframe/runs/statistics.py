"""Accuracy with error bars, broken down by subject. Pure functions over answers, which are dictionaries.

An answer is a line of `answers.jsonl`. Read here are `question_id`, `correct`, and, where they are there, `subject`,
`unparsed`, `truncated` and `chance` (the probability of guessing right, None where it makes no sense).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actframe.errors import BenchmarkError

__all__ = ["Summary", "summarize", "summarize_by_subject", "wilson_interval"]

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""

NO_SUBJECT = "(no subject)"


@dataclass(frozen=True)
class Summary:
    """What a set of answers says about a model.

    Attributes:
        questions: how many questions were answered.
        answers: how many answers there are: questions times trials.
        accuracy: the mean over questions of the share of right answers; trials are averaged within a question first.
        standard_error: of `accuracy`, over questions; None for a single question, which says nothing of its spread.
        low: lower end of the 95 % interval of `accuracy`.
        high: upper end.
        unparsed: the share of answers that could not be extracted.
        truncated: the share of answers that the token limit ended.
        chance: the accuracy of guessing; None where a question has no such thing.
    """

    questions: int
    answers: int
    accuracy: float
    standard_error: float | None
    low: float
    high: float
    unparsed: float
    truncated: float
    chance: float | None


def summarize(answers: Iterable[Mapping[str, Any]]) -> Summary:
    """Accuracy over questions with its standard error and 95 % interval.

    Questions are the sample, whatever the number of trials: two answers to one question are not two questions. The
    interval is Wilson's (see `wilson_interval`), at one trial with the number of questions. With several trials,
    questions spread less than single coin flips do, and the sample size is the one at which coin flips would have the
    standard error that was seen: the effective sample size of a clustered survey (E. L. Korn and B. I. Graubard, Survey
    Methodology 24, 1998, 193-201), never below the number of questions nor above that of answers.

    >>> summary = summarize([{"question_id": "a", "correct": True}, {"question_id": "b", "correct": False}])
    >>> summary.accuracy, summary.standard_error
    (0.5, 0.5)

    Raises:
        BenchmarkError: there are no answers.
    """
    answers = list(answers)
    if not answers:
        raise BenchmarkError("no answers, so there is no accuracy")
    by_question: dict[Any, list[float | bool]] = defaultdict(list)
    for answer in answers:
        by_question[answer["question_id"]].append(answer["correct"])
    means = [_mean(trials) for trials in by_question.values()]
    accuracy = _mean(means)
    error = _standard_error(means)
    low, high = wilson_interval(accuracy, _effective_size(accuracy, error, len(means), len(answers)))
    chances: list[Any] = [answer.get("chance") for answer in answers]
    return Summary(
        questions=len(means),
        answers=len(answers),
        accuracy=accuracy,
        standard_error=error,
        low=low,
        high=high,
        unparsed=_share(answers, "unparsed"),
        truncated=_share(answers, "truncated"),
        chance=None if None in chances else _mean(chances),
    )


def summarize_by_subject(answers: Iterable[Mapping[str, Any]]) -> dict[str, Summary]:
    """A summary of each subject, by name; empty where no answer has one."""
    by_subject: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for answer in answers:
        by_subject[answer.get("subject") or NO_SUBJECT].append(answer)
    if set(by_subject) <= {NO_SUBJECT}:
        return {}
    return {subject: summarize(by_subject[subject]) for subject in sorted(by_subject)}


def wilson_interval(share: float, size: float, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a share that was seen in a sample of `size`, as (low, high).

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927), 209-212. Unlike share +- 1.96 standard errors it stays within 0 and 1, and has
    a width where every answer was right.

    >>> low, high = wilson_interval(share=0.5, size=10)
    >>> round(low, 4), round(high, 4)
    (0.2366, 0.7634)
    """
    spread = z * z / size
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / size + spread / (4 * size))
    # Rounding leaves the ends of 0 of n and n of n a hair inside.
    return (0.0 if share == 0 else max(0.0, centre - half)), (1.0 if share == 1 else min(1.0, centre + half))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _share(answers: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum([1 for answer in answers if answer.get(key)]) / len(answers)


def _standard_error(means: Sequence[float]) -> float | None:
    """Of the mean of a sample, from its own spread (n - 1)."""
    if len(means) < 2:
        return None
    centre = _mean(means)
    variance = math.fsum((value - centre) ** 2 for value in means) / (len(means) - 1)
    return math.sqrt(variance / len(means))


def _effective_size(accuracy: float, error: float | None, questions: int, answers: int) -> float:
    if error is None or accuracy in (0.0, 1.0):
        return questions
    if error == 0:
        return answers
    return min(max(accuracy * (1 - accuracy) / error**2, questions), answers)
