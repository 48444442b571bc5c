"""What several answers to a question say together, against brute force over all that could be drawn."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actframe.runs.trials import agreement, majority, pass_at, sample_sizes


def said(*answers):
    """`"A!"` is right, `"B"` is wrong, None could not be extracted."""
    return [
        {"extracted_answer": each and each.rstrip("!"), "correct": (each or "").endswith("!"), "unparsed": each is None}
        for each in answers
    ]


answers = st.lists(st.sampled_from(["A!", "B", "C", None]), min_size=2, max_size=7).map(lambda each: said(*each))


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(trials, data):
    right = data.draw(st.integers(0, trials))
    for k in range(1, trials + 1):
        draws = list(itertools.combinations(range(trials), k))
        lucky = sum(any(number < right for number in drawn) for drawn in draws)
        assert pass_at(k, right, trials) == pytest.approx(float(Fraction(lucky, len(draws))))


@given(st.integers(1, 300), st.data())
def test_pass_at_k_never_falls_as_k_grows(trials, data):
    right = data.draw(st.integers(0, trials))
    found = [pass_at(k, right, trials) for k in sample_sizes(trials)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(right / trials)
    assert found[-1] == float(right > 0)


@pytest.mark.parametrize(
    ("trials", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])]
)
def test_k_are_powers_of_two_and_the_number_of_trials(trials, sizes):
    assert list(sample_sizes(trials)) == sizes


@pytest.mark.parametrize(
    ("given", "share"),
    [
        (["A!", "A!", "B"], 1.0),
        (["A!", "B", "B"], 0.0),
        (["A!", "B"], 0.5),
        (["A!", "B", "C"], 1 / 3),
        (["B", "C"], 0.0),
        (["A!", None, None], 1.0),
        ([None, None], 0.0),
    ],
)
def test_the_majority_is_right_and_a_tie_is_drawn_by_lot(given, share):
    assert majority(said(*given)) == pytest.approx(share)


def test_right_answers_are_the_same_however_they_are_written():
    given = said("0.5!", "1/2!", "2", "2")
    assert majority(given) == 0.5
    assert agreement(given) == pytest.approx(2 / 6)


def test_wrong_answers_are_the_same_where_their_benchmark_says_so():
    given = said("A!", "A!", "1/2", "0.5", "0.50")
    assert (majority(given), agreement(given)) == (1.0, pytest.approx(1 / 10))
    given[2]["vote"] = given[4]["vote"] = "0.5"
    assert (majority(given), agreement(given)) == (0.0, pytest.approx(4 / 10))


def test_no_text_is_taken_for_the_right_answer_and_answers_may_be_of_any_kind():
    odd = ["right", ["right"], {"a": 1}, {"a": 1}, 3, "3"]
    given = [{"extracted_answer": each, "correct": False, "unparsed": False} for each in odd]
    assert majority(given) == 0.0
    assert agreement(given) == pytest.approx(1 / 15)


@given(answers)
def test_agreement_is_the_share_of_pairs_that_say_the_same(given):
    pairs = list(itertools.combinations(given, 2))
    same = sum(one == other and not one["unparsed"] for one, other in pairs)
    assert agreement(given) == pytest.approx(same / len(pairs))


@given(answers, st.randoms())
def test_the_order_of_trials_does_not_matter(given, generator):
    shuffled = generator.sample(given, len(given))
    assert majority(shuffled) == majority(given)
    assert agreement(shuffled) == agreement(given)
