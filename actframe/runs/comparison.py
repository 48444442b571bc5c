"""How much better one run is than another: question by question where they share questions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actframe.errors import BenchmarkError
from actframe.runs.intervals import bootstrap_interval, mcnemar, mean, mean_of, square_and_add
from actframe.runs.statistics import group_by_question, summarize

__all__ = ["Comparison", "Discordant", "compare_answers"]

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Discordant:
    """The questions that one run got right and the other did not, where both answered each of them once.

    Attributes:
        only_first: how many only the first got right.
        only_second: how many only the second did.
        p_value: of McNemar's exact test: how probable so uneven a split is if neither is better.
    """

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """How much more accurate a second run is than a first.

    Attributes:
        kind: `"paired"`, over the questions that both answered, or `"independent"`, where there are none.
        questions: how many both answered.
        only_first: how many only the first answered. They are not in a paired difference.
        only_second: how many only the second did.
        first: accuracy of the first over what is compared.
        second: accuracy of the second.
        difference: `second - first`.
        standard_error: of the difference, over questions; None where there is one question alone.
        low: lower end of the 95 % interval of the difference; None where every question has the same difference, as
            when both runs gave the same answers: there is nothing to say how far it would vary.
        high: upper end.
        discordant: the questions that only one got right; None unless each was answered once by both.
        expect_another: how many of the shared questions have another expected answer in the second run: either their
            choices were shuffled in another way, or they are other questions under the same ids.
    """

    kind: Literal["paired", "independent"]
    questions: int
    only_first: int
    only_second: int
    first: float
    second: float
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    discordant: Discordant | None
    expect_another: int


def compare_answers(first: Iterable[Answer], second: Iterable[Answer]) -> Comparison:
    """The difference in accuracy between two runs of one benchmark, with its standard error and 95 % interval.

    Where both answered the same questions, the sample are the differences of each question, trials averaged first: how
    hard a question is falls out, which makes intervals shorter (E. Miller, "Adding error bars to evals", 2024,
    arXiv:2411.00640, section 4). The interval is from the bootstrap of questions. Where no question is shared,
    it is from those of both accuracies (see `square_and_add`).

    Answers that nobody judged are left out.

    Raises:
        BenchmarkError: one of the two has no answers that were judged.
    """
    ours, theirs = (
        group_by_question(each for each in answers if each["correct"] is not None) for answers in (first, second)
    )
    if not ours or not theirs:
        raise BenchmarkError(f"the {'second' if ours else 'first'} has no answers that were judged")
    shared = [question for question in ours if question in theirs]
    if not shared:
        return _independent(ours, theirs)
    before, after = ([_share_right(each[question]) for question in shared] for each in (ours, theirs))
    differences = [new - old for old, new in zip(before, after, strict=True)]
    difference = mean_of(differences)
    low, high = bootstrap_interval(differences) or (None, None)
    return Comparison(
        kind="paired",
        questions=len(shared),
        only_first=len(ours) - len(shared),
        only_second=len(theirs) - len(shared),
        first=mean(before),
        second=mean(after),
        difference=difference.mean,
        standard_error=difference.standard_error,
        low=None if low is None else min(low, difference.mean),
        high=None if high is None else max(high, difference.mean),
        discordant=_discordant(before, after, [ours[question] + theirs[question] for question in shared]),
        expect_another=sum(_expected(ours[question]) != _expected(theirs[question]) for question in shared),
    )


def _independent(ours: Mapping[Any, Sequence[Answer]], theirs: Mapping[Any, Sequence[Answer]]) -> Comparison:
    first, second = (summarize(answer for given in each.values() for answer in given) for each in (ours, theirs))
    errors = [first.standard_error, second.standard_error]
    known = [error for error in errors if error is not None]
    low, high = square_and_add(first.accuracy, (first.low, first.high), second.accuracy, (second.low, second.high))
    return Comparison(
        kind="independent",
        questions=0,
        only_first=len(ours),
        only_second=len(theirs),
        first=first.accuracy,
        second=second.accuracy,
        difference=second.accuracy - first.accuracy,
        standard_error=math.hypot(*known) if len(known) == 2 else None,
        low=low,
        high=high,
        discordant=None,
        expect_another=0,
    )


def _discordant(
    before: Sequence[float], after: Sequence[float], given: Sequence[Sequence[Answer]]
) -> Discordant | None:
    # Two answers to a question: one of each run. Half a right answer is no side of a coin.
    if any(len(each) != 2 for each in given) or not {*before, *after} <= {0, 1}:
        return None
    only_first = sum(old > new for old, new in zip(before, after, strict=True))
    only_second = sum(old < new for old, new in zip(before, after, strict=True))
    return Discordant(only_first, only_second, mcnemar(only_first, only_second))


def _share_right(given: Sequence[Answer]) -> float:
    return mean([answer["correct"] for answer in given])


def _expected(given: Sequence[Answer]) -> Any:
    return given[0].get("expected")
