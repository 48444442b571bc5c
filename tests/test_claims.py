"""Claims: where they end, what they deny, which one counts."""

import pytest

from actframe.benchmarks.claims import affirmed, claim_at, is_open, last_statement


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        (": C. Jupiter. It is large.", "C. Jupiter"),
        (" 3.5 km; that is far", "3.5 km"),
        ('\n\n"-10"\nnext', '-10"'),
        (" (C) because", "(C) because"),
        ("", ""),
    ],
)
def test_a_claim_ends_with_its_sentence(text, claim):
    assert claim_at(f"The answer is{text}", len("The answer is")) == claim


def test_no_claim_is_longer_than_the_window():
    assert len(claim_at("x" * 1000, 10)) == 300


@pytest.mark.parametrize(
    ("claim", "rest"),
    [
        ("B", "B"),
        ("not B but rather C", "rather C"),
        ("not B, instead C", "C"),
        ("incorrect", ""),
        ("nothing", "nothing"),
    ],
)
def test_only_what_is_not_denied_is_affirmed(claim, rest):
    assert affirmed(claim) == rest


@pytest.mark.parametrize(
    ("claim", "is_none"),
    [
        ("not given", True),
        ("unknown", True),
        ("cannot be determined", True),
        ("none of these", True),
        ("not B", False),
        ("5", False),
    ],
)
def test_a_claim_may_say_that_there_is_no_answer(claim, is_none):
    assert is_open(claim) is is_none


def test_the_last_statement_that_gives_anything_counts():
    assert last_statement([(5, {"A"}), (9, set()), (7, {"B", "C"}), (1, {"D"})]) == {"B", "C"}
    assert last_statement([]) == set()
