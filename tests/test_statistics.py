"""Accuracy and its error bars, against published and hand-computed values."""

import math
import random

import pytest

from actframe.errors import BenchmarkError
from actframe.runs.statistics import NO_SUBJECT, summarize, summarize_by_subject, wilson_interval


def answer(question, correct, **more):
    return {"question_id": question, "correct": correct, **more}


def answers(right, total):
    return [answer(str(index), index < right) for index in range(total)]


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_that_of_newcombe_s_table(right, total, low, high):
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    found = wilson_interval(right / total, total)
    assert found == pytest.approx((low, high), abs=5e-5)
    summary = summarize(answers(right, total))
    assert (summary.low, summary.high) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_is_symmetric_and_ends_at_the_ends():
    low, high = wilson_interval(0.3, 50)
    assert wilson_interval(0.7, 50) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(0.0, 5)[0] == 0.0
    assert wilson_interval(1.0, 5)[1] == 1.0
    assert wilson_interval(1.0, 5)[0] < 0.6


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = random.Random(0)
    for truth in (0.25, 0.5, 0.9):
        covered = 0
        for _ in range(2000):
            right = sum(generator.random() < truth for _ in range(60))
            low, high = wilson_interval(right / 60, 60)
            covered += low <= truth <= high
        assert 0.93 <= covered / 2000 <= 0.975


def test_one_trial_gives_the_share_and_the_standard_error_of_its_sample():
    summary = summarize(answers(3, 4))
    assert (summary.questions, summary.answers, summary.accuracy) == (4, 4, 0.75)
    assert summary.standard_error == pytest.approx(math.sqrt(0.25 / 4))


def test_trials_are_averaged_within_a_question_before_the_error_is_taken():
    graded = [answer("a", True), answer("a", True), answer("b", False), answer("b", True), answer("c", False)]
    summary = summarize(graded)
    assert (summary.questions, summary.answers) == (3, 5)
    assert summary.accuracy == pytest.approx((1 + 0.5 + 0) / 3)
    assert summary.standard_error == pytest.approx(0.5 / math.sqrt(3))


def test_repeating_the_same_answers_does_not_narrow_the_interval():
    once = summarize(answers(12, 20))
    again = summarize(answers(12, 20) * 5)
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
    assert again.standard_error == pytest.approx(once.standard_error)


def test_trials_that_differ_narrow_the_interval_up_to_as_many_questions():
    generator = random.Random(1)
    graded = [answer(str(question), generator.random() < 0.5) for question in range(200) for _ in range(4)]
    summary = summarize(graded)
    widest = wilson_interval(summary.accuracy, 200)
    narrowest = wilson_interval(summary.accuracy, 800)
    width = summary.high - summary.low
    assert narrowest[1] - narrowest[0] <= width < (widest[1] - widest[0]) * 0.7


def test_questions_that_are_all_half_right_count_their_answers():
    graded = [answer(str(question), bool(trial)) for question in range(10) for trial in range(2)]
    summary = summarize(graded)
    assert summary.standard_error == 0
    assert (summary.low, summary.high) == wilson_interval(0.5, 20)


def test_a_single_question_has_no_standard_error_but_an_interval():
    summary = summarize([answer("a", True)])
    assert summary.standard_error is None
    assert summary.low == pytest.approx(0.2065, abs=5e-5)
    assert summary.high == 1.0


def test_unparsed_truncated_and_chance_are_shares_of_answers():
    graded = [
        answer("a", True, unparsed=False, truncated=True, chance=0.25),
        answer("b", False, unparsed=True, truncated=True, chance=0.5),
        answer("c", False, unparsed=True, truncated=False, chance=0.25),
    ]
    summary = summarize(graded)
    assert summary.unparsed == pytest.approx(2 / 3)
    assert summary.truncated == pytest.approx(2 / 3)
    assert summary.chance == pytest.approx(1 / 3)


def test_chance_is_unknown_where_one_question_cannot_be_guessed():
    assert summarize([answer("a", True, chance=0.25), answer("b", True, chance=None)]).chance is None
    assert summarize([answer("a", True)]).chance is None


def test_subjects_are_summarized_each_in_alphabetical_order():
    graded = [
        answer("1", True, subject="physics"),
        answer("2", False, subject="art"),
        answer("3", False, subject="physics"),
        answer("4", True),
    ]
    by_subject = summarize_by_subject(graded)
    assert list(by_subject) == [NO_SUBJECT, "art", "physics"]
    assert [each.accuracy for each in by_subject.values()] == [1.0, 0.0, 0.5]
    assert by_subject["physics"].questions == 2


def test_answers_without_subjects_have_no_breakdown():
    assert summarize_by_subject([answer("1", True), answer("2", False, subject=None)]) == {}


def test_no_answers_are_refused():
    with pytest.raises(BenchmarkError, match="no answers"):
        summarize([])
