"""Differences between runs, against numpy, scipy and published values."""

import random

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from actframe.errors import BenchmarkError
from actframe.runs.comparison import Discordant, compare_answers
from actframe.runs.statistics import summarize


def answers(right, start=0, **more):
    """One answer to each question: `right` says of each whether it is right."""
    return [{"question_id": number, "correct": bool(each), **more} for number, each in enumerate(right, start)]


def share(right, total, start=0):
    return answers([number < right for number in range(total)], start)


gradings = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=80)


@given(gradings)
def test_a_paired_difference_is_the_mean_over_the_questions(pairs):
    first, second = zip(*pairs, strict=True)
    found = compare_answers(answers(first), answers(second))
    differences = numpy.array(second, float) - numpy.array(first, float)
    assert found.kind == "paired"
    assert found.difference == pytest.approx(differences.mean(), abs=1e-12)
    assert found.standard_error == pytest.approx(scipy.stats.sem(differences), abs=1e-12)
    assert found.second - found.first == pytest.approx(found.difference, abs=1e-12)
    if len(set(differences)) == 1:
        assert (found.low, found.high) == (None, None)
    else:
        assert -1 <= found.low <= found.difference <= found.high <= 1


@given(gradings)
def test_mcnemar_s_test_is_of_the_questions_that_one_alone_got_right(pairs):
    first, second = zip(*pairs, strict=True)
    found = compare_answers(answers(first), answers(second)).discordant
    lost = sum(old and not new for old, new in pairs)
    won = sum(new and not old for old, new in pairs)
    expected = scipy.stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert (found.only_first, found.only_second) == (lost, won)
    assert found.p_value == pytest.approx(expected)
    turned = compare_answers(answers(second), answers(first)).discordant
    assert turned == Discordant(won, lost, found.p_value)


def test_the_interval_is_that_of_scipy_s_bootstrap_of_the_differences():
    generator = numpy.random.default_rng(3)
    difficulty = generator.beta(1, 1, 150)
    first, second = (generator.random(150) < difficulty**power for power in (1, 0.6))
    found = compare_answers(answers(first), answers(second))
    theirs = scipy.stats.bootstrap(
        (second.astype(float), first.astype(float)),
        lambda new, old, axis: (new - old).mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=numpy.random.default_rng(1),
    )
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.007)
    independent = compare_answers(answers(first), answers(second, start=1000))
    assert found.high - found.low < independent.high - independent.low


def test_trials_are_averaged_within_a_question_first():
    first = [*answers([1, 0]), *answers([1, 0])]
    second = [*answers([1, 1]), *answers([0, 1]), *answers([1, 1]), *answers([0, 1])]
    found = compare_answers(first, second)
    assert (found.first, found.second, found.questions) == (0.5, 0.75, 2)
    assert found.difference == pytest.approx((-0.5 + 1) / 2)
    assert found.standard_error == pytest.approx(0.75)
    assert found.discordant is None


def test_questions_that_one_run_alone_answered_are_counted_and_left_out():
    found = compare_answers(share(6, 10), share(0, 10, start=8))
    assert (found.kind, found.questions, found.only_first, found.only_second) == ("paired", 2, 8, 8)
    assert (found.first, found.difference) == (0.0, 0.0)
    assert found.discordant == Discordant(0, 0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"), [((48, 80), (56, 70), 0.0524, 0.3339), ((3, 10), (9, 10), 0.1705, 0.8090)]
)
def test_runs_that_share_no_question_are_independent_samples(first, second, low, high):
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10."""
    ours, theirs = share(*first), share(*second, start=1000)
    found = compare_answers(ours, theirs)
    assert (found.kind, found.questions, found.only_first, found.only_second) == (
        "independent",
        0,
        first[1],
        second[1],
    )
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    errors = [summarize(each).standard_error for each in (ours, theirs)]
    assert found.standard_error == pytest.approx(numpy.hypot(*errors))
    assert found.discordant is None


def test_independent_runs_of_several_trials_have_an_interval_around_the_difference():
    generator = random.Random(0)
    ours, theirs = (
        [answer for _ in range(4) for answer in answers([generator.random() < p for _ in range(40)], start)]
        for p, start in ((0.3, 0), (0.6, 1000))
    )
    found = compare_answers(ours, theirs)
    assert found.low < found.difference < found.high
    assert (found.high - found.low) / 4 == pytest.approx(found.standard_error, rel=0.1)


def test_a_single_question_in_each_has_no_standard_error():
    assert compare_answers(share(1, 1), share(0, 1)).standard_error is None
    found = compare_answers(share(1, 1), share(0, 1, start=5))
    assert found.standard_error is None
    assert -1 == found.low == found.difference < found.high


def test_questions_under_one_id_that_expect_another_answer_are_counted():
    ours = [*answers([1, 1], expected="A"), *answers([1], 2, expected="B")]
    theirs = answers([1, 0, 1], expected="A")
    assert compare_answers(ours, theirs).expect_another == 1
    assert compare_answers(ours, ours).expect_another == 0


def test_answers_that_nobody_judged_are_left_out():
    unjudged = [{"question_id": 0, "correct": None}]
    assert compare_answers([*share(1, 2), *unjudged], share(1, 2)) == compare_answers(share(1, 2), share(1, 2))
    for pair, name in (((unjudged, share(1, 2)), "first"), ((share(1, 2), []), "second")):
        with pytest.raises(BenchmarkError, match=f"the {name} has no answers that were judged"):
            compare_answers(*pair)
