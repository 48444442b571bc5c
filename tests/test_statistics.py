"""Accuracy and its error bars, against published and hand-computed values."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actframe.errors import BenchmarkError
from actframe.runs.intervals import Mean, bootstrap_interval, wilson_interval
from actframe.runs.statistics import NO_SUBJECT, summarize, summarize_by_subject


def answer(question, correct, **more):
    return {"question_id": question, "correct": correct, **more}


def answers(right, total):
    return [answer(str(index), index < right) for index in range(total)]


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_at_one_trial_is_that_of_newcombe_s_table(right, total, low, high):
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    summary = summarize(answers(right, total))
    assert (summary.low, summary.high) == pytest.approx((low, high), abs=5e-5)
    assert (summary.interval, summary.trials, summary.complete) == ("wilson", 1, total)


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


def test_repeating_the_same_answers_hardly_narrows_the_interval():
    once = summarize(answers(12, 20))
    again = summarize(answers(12, 20) * 5)
    assert again.standard_error == pytest.approx(once.standard_error)
    assert again.interval == "bootstrap"
    assert (again.low, again.high) == pytest.approx((0.4, 0.8))
    assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=0.025)


def test_trials_that_differ_narrow_the_interval_as_far_as_their_questions_allow():
    generator = random.Random(1)
    graded = [answer(str(question), generator.random() < 0.5) for question in range(200) for _ in range(4)]
    summary = summarize(graded)
    shares = [sum(each["correct"] for each in graded[start : start + 4]) / 4 for start in range(0, 800, 4)]
    assert (summary.low, summary.high) == bootstrap_interval(shares)
    one, four = (high - low for low, high in (wilson_interval(summary.accuracy, size) for size in (200, 800)))
    assert four * 0.85 < summary.high - summary.low < one * 0.7


def test_questions_that_are_all_alike_have_the_interval_of_as_many_coins():
    half = summarize([answer(str(question), bool(trial)) for question in range(10) for trial in range(2)])
    assert (half.standard_error, half.interval) == (0, "wilson")
    assert (half.low, half.high) == wilson_interval(0.5, 10)
    right = summarize(answers(10, 10) * 3)
    assert (right.low, right.high) == wilson_interval(1.0, 10)


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


def test_answers_that_nobody_judged_are_left_out():
    judged = [*answers(1, 2), answer("x", True, subject="art")]
    graded = [*judged, answer("y", None, subject="law"), answer("z", None)]
    assert summarize(graded) == summarize(judged)
    assert summarize_by_subject(graded) == summarize_by_subject(judged)


@pytest.mark.parametrize("graded", [[], [answer("a", None)]])
def test_where_no_answer_was_judged_there_is_no_accuracy(graded):
    with pytest.raises(BenchmarkError, match="no answers that were judged"):
        summarize(graded)
    assert summarize_by_subject(graded) == {}


trials_of = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["A", "B", None])), min_size=1, max_size=60)


@given(trials_of)
def test_of_whatever_answers_there_are_the_figures_are_possible(given):
    graded = [
        answer(question, said == "A", extracted_answer=said, unparsed=said is None, subject=f"s{question % 3}")
        for question, said in given
    ]
    summary = summarize(graded)
    assert 0 <= summary.low <= summary.accuracy <= summary.high <= 1
    assert 1 <= summary.complete <= summary.questions
    passes = list(summary.pass_at.values())
    assert passes == sorted(passes)
    assert summary.majority <= passes[-1]
    assert (summary.agreement is None) == (summary.trials == 1)
    assert summarize(list(reversed(graded))) == summary


def test_macro_is_the_mean_of_the_subjects_and_micro_that_of_the_questions():
    graded = [answer(str(number), number < 6, subject="art") for number in range(8)]
    graded += [answer("8", False, subject="law"), answer("9", False, subject="law")]
    summary = summarize(graded)
    assert (summary.accuracy, summary.macro) == (0.6, 0.375)
    by_subject = summarize_by_subject(graded)
    assert summary.macro == sum(each.accuracy for each in by_subject.values()) / 2
    assert summarize(answers(1, 2)).macro is None


def test_figures_of_several_trials_are_of_the_questions_that_have_them_all():
    graded = [answer("a", said == "A", extracted_answer=said) for said in "ABAA"]
    graded += [answer("b", said == "A", extracted_answer=said) for said in "BBCA"]
    summary = summarize([*graded, answer("c", True, extracted_answer="A")])
    assert (summary.questions, summary.trials, summary.complete) == (3, 4, 2)
    assert summary.accuracy == pytest.approx((3 / 4 + 1 / 4 + 1) / 3)
    assert summary.pass_at == pytest.approx({"pass@1": 0.5, "pass@2": (1 + 1 / 2) / 2, "pass@4": 1.0})
    assert summary.majority == 0.5
    assert summary.agreement == pytest.approx((3 / 6 + 1 / 6) / 2)


def test_where_nobody_knows_what_was_answered_there_is_no_vote():
    summary = summarize([answer("a", True), answer("a", False)])
    assert (summary.majority, summary.agreement) == (None, None)
    assert summary.pass_at == {"pass@1": 0.5, "pass@2": 1.0}
    assert summarize([answer("a", True), answer("a", False, unparsed=True)]).majority == 1.0


def test_a_metric_is_averaged_over_the_questions_that_have_it():
    graded = [
        answer("a", True, metrics={"accuracy_norm": 1.0, "bits": 2.0}),
        answer("a", True, metrics={"accuracy_norm": 0.0}),
        answer("b", False, metrics={"accuracy_norm": 0.0}),
        answer("c", False, metrics=None),
    ]
    assert summarize(graded).metrics == {"accuracy_norm": Mean(0.25, 0.25, 2), "bits": Mean(2.0, None, 1)}
