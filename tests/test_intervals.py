"""Intervals and tests, against published values, exact arithmetic, brute force and scipy."""

import itertools
import math
import random
from fractions import Fraction

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from actframe.runs.intervals import bootstrap_interval, mcnemar, mean_of, square_and_add, wilson_interval

shares = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=60)
counts = st.integers(0, 40)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_s_interval_is_that_of_newcombe_s_table(right, total, low, high):
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    assert wilson_interval(right / total, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_s_interval_is_that_of_scipy(total, data):
    right = data.draw(st.integers(0, total))
    theirs = scipy.stats.binomtest(right, total).proportion_ci(method="wilson")
    assert wilson_interval(right / total, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_s_interval_is_symmetric_and_ends_at_the_ends():
    low, high = wilson_interval(0.3, 50)
    assert wilson_interval(0.7, 50) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(0.0, 5)[0] == 0.0
    assert wilson_interval(1.0, 5)[1] == 1.0
    assert wilson_interval(1.0, 5)[0] < 0.6


def test_wilson_s_interval_covers_the_truth_about_as_often_as_it_says():
    generator = random.Random(0)
    for truth in (0.25, 0.5, 0.9):
        covered = 0
        for _ in range(2000):
            right = sum(generator.random() < truth for _ in range(60))
            low, high = wilson_interval(right / 60, 60)
            covered += low <= truth <= high
        assert 0.93 <= covered / 2000 <= 0.975


@given(shares.filter(lambda values: len(values) > 1))
def test_a_standard_error_is_that_of_scipy(values):
    found = mean_of(values)
    assert found.mean == pytest.approx(numpy.mean(values), abs=1e-12)
    assert found.standard_error == pytest.approx(scipy.stats.sem(values), abs=1e-12)
    assert found.questions == len(values)


@given(shares)
def test_the_bootstrap_contains_the_mean_and_is_the_same_whatever_the_order(values):
    found = bootstrap_interval(values)
    if len(set(values)) == 1:
        assert found is None
        return
    low, high = found
    assert 0 <= low <= sum(values) / len(values) + 1e-12
    assert sum(values) / len(values) - 1e-12 <= high <= 1
    assert bootstrap_interval(sorted(values, reverse=True)) == found


@pytest.mark.parametrize("size", [12, 80, 600])
def test_the_bootstrap_is_that_of_scipy(size):
    values = numpy.random.default_rng(size).choice([0.0, 0.25, 0.5, 1.0], size)
    theirs = scipy.stats.bootstrap(
        (values,), numpy.mean, n_resamples=10_000, method="percentile", rng=numpy.random.default_rng(1)
    )
    # Two draws of ten thousand resamples: the ends differ by what a quantile is known to.
    within = 0.12 * theirs.standard_error
    assert bootstrap_interval(values.tolist()) == pytest.approx(tuple(theirs.confidence_interval), abs=within)


def test_the_bootstrap_is_that_of_all_resamples():
    values = [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    means = [sum(drawn) / 6 for drawn in itertools.product(values, repeat=6)]
    low, high = numpy.quantile(means, (0.025, 0.975))
    # Means of six such values are a twelfth apart.
    assert bootstrap_interval(values) == pytest.approx((low, high), abs=1 / 12 + 1e-9)


def test_the_bootstrap_covers_the_truth_nearly_as_often_as_it_says():
    """Questions whose difficulty varies, each answered four times."""
    generator = numpy.random.default_rng(0)
    covered = 0
    for _ in range(400):
        difficulty = generator.beta(1.2, 0.8, 60)
        low, high = bootstrap_interval((generator.binomial(4, difficulty) / 4).tolist())
        covered += low <= 0.6 <= high
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((48, 80), (56, 70), 0.0524, 0.3339), ((3, 10), (9, 10), 0.1705, 0.8090), ((0, 10), (10, 10), 0.6075, 1.0)],
)
def test_a_difference_of_independent_shares_has_newcombe_s_interval(first, second, low, high):
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10, columns a, b and h."""
    shares = [right / total for right, total in (first, second)]
    around = [wilson_interval(right / total, total) for right, total in (first, second)]
    assert square_and_add(shares[0], around[0], shares[1], around[1]) == pytest.approx((low, high), abs=5e-5)


@given(counts, counts)
def test_mcnemar_s_test_is_scipy_s_binomial_test(only_first, only_second):
    total = only_first + only_second
    theirs = scipy.stats.binomtest(only_first, total, 0.5).pvalue if total else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(theirs, rel=1e-9)


@given(st.integers(0, 8), st.integers(0, 8))
def test_mcnemar_s_test_counts_the_splits_that_are_as_uneven(only_first, only_second):
    total = only_first + only_second
    uneven = abs(only_first - only_second)
    splits = itertools.product((0, 1), repeat=min(total, 12))
    if total > 12:
        return
    as_uneven = sum(abs(total - 2 * sum(split)) >= uneven for split in splits)
    assert mcnemar(only_first, only_second) == float(Fraction(as_uneven, 2**total))


def test_mcnemar_s_test_of_many_questions_neither_overflows_nor_takes_long():
    assert mcnemar(5000, 5000) == 1.0
    assert mcnemar(6900, 7100) == pytest.approx(2 * scipy.stats.binom.cdf(6900, 14000, 0.5), rel=1e-9)
    assert mcnemar(0, 3000) == 0.0
    assert math.isfinite(mcnemar(1, 20_000))
