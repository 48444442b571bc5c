"""Means and how far they can be trusted: standard errors, intervals, and the test of two models on the same questions.

Nothing here knows of answers: samples are numbers, one for each question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

__all__ = ["Mean", "bootstrap_interval", "mcnemar", "mean", "mean_of", "square_and_add", "wilson_interval"]

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""

RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class Mean:
    """The mean of a sample.

    Attributes:
        mean: of the values.
        standard_error: of the mean, from the spread of the sample (n - 1); None for a single value, which has none.
        questions: how many values there are: one for each question.
    """

    mean: float
    standard_error: float | None
    questions: int


def mean(values: Sequence[float]) -> float:
    """The mean, the same in whatever order the values come."""
    return math.fsum(values) / len(values)


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of a sample, with its standard error.

    >>> mean_of([1.0, 0.0])
    Mean(mean=0.5, standard_error=0.5, questions=2)
    """
    centre = mean(values)
    if len(values) < 2:
        return Mean(centre, None, len(values))
    variance = math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)
    return Mean(centre, math.sqrt(variance / len(values)), len(values))


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


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of the mean, as (low, high): 10,000 resamples with a fixed seed.

    B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. The same values in another
    order give the same interval. None where all values are the same: resamples are then too, and say nothing.

    >>> bootstrap_interval([0.0, 0.5, 0.5, 1.0])
    (0.125, 0.875)
    """
    found, counts = numpy.unique(numpy.asarray(values, numpy.float64), return_counts=True)
    if len(found) < 2:
        return None
    size = len(values)
    # How often each value is drawn is all that the mean of a resample depends on, and shares of a few trials have few
    # values: ten thousand questions cost no more than ten.
    drawn = numpy.random.default_rng(SEED).multinomial(size, counts / size, size=RESAMPLES)
    low, high = numpy.quantile(drawn @ found / size, (0.025, 0.975)).tolist()
    return low, high


def square_and_add(
    first: float, around_first: tuple[float, float], second: float, around_second: tuple[float, float]
) -> tuple[float, float]:
    """An interval of `second - first` from the intervals of two independent samples.

    R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17
    (1998), 873-890, method 10, where both are Wilson's; for other intervals G. Y. Zou and A. Donner, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27 (2008), 1693-1702.

    >>> low, high = square_and_add(48 / 80, wilson_interval(48 / 80, 80), 56 / 70, wilson_interval(56 / 70, 70))
    >>> round(low, 4), round(high, 4)
    (0.0524, 0.3339)
    """
    difference = second - first
    low = difference - math.hypot(second - around_second[0], around_first[1] - first)
    return low, difference + math.hypot(around_second[1] - second, first - around_first[0])


def mcnemar(only_first: int, only_second: int) -> float:
    """How probable it is that questions which only one of two models got right are split so unevenly by chance.

    The exact two-sided test of Q. McNemar, Psychometrika 12 (1947), 153-157: the binomial distribution at 1/2.

    >>> mcnemar(2, 8)
    0.109375
    """
    total = only_first + only_second
    ways, each = 0, 1
    for number in range(min(only_first, only_second) + 1):
        ways += each
        each = each * (total - number) // (number + 1)
    return min(1.0, 2 * ways / (1 << total))
