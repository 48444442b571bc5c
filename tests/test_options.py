"""How responses name options: by letters, by texts, in lists."""

import pytest

from actframe.benchmarks.claims import NO_ANSWER
from actframe.benchmarks.options import named_options

PLANETS = named_options(("Mars", "Venus", "The Sun", "A moon of Mars"), "ABCD")


@pytest.mark.parametrize(
    ("claim", "letters"),
    [
        ("C", "C"),
        ("(c).", "C"),
        ("b) Venus", "B"),
        ("option B, since it is hot", "B"),
        ("A. Mars", "A"),
        ("A or B", "AB"),
        ("A, B and D", "ABD"),
        ("A moon of Mars", "D"),
        ("A planet", ""),
        ("a planet", ""),
        ("the sun", "C"),
        ("Mars or Venus", "AB"),
        ("not A but B", "B"),
        ("not A", ""),
        ("B is wrong", ""),
        ("D-Day", ""),
        ("somewhere near Venus", ""),
        ("unknown", NO_ANSWER),
        ("E.", NO_ANSWER),
    ],
)
def test_a_claim_gives_the_options_it_begins_with(claim, letters):
    assert PLANETS.claimed(claim) == set(letters)


def test_with_anywhere_the_only_option_in_a_claim_counts():
    assert PLANETS.claimed("somewhere near Venus", anywhere=True) == {"B"}
    assert PLANETS.claimed("hotter than Venus and Mars", anywhere=True) == set()


def test_texts_are_found_as_whole_words_the_longer_one_first():
    assert PLANETS.mentioned("Marsh, Martian and Venusian") == set()
    assert PLANETS.mentioned("It is a moon of Mars.") == {"D"}
    assert PLANETS.mentioned("mars and the SUN") == {"A", "C"}


def test_letters_set_apart_are_marked():
    assert PLANETS.marked("Either (a), option B or C), not D") == {"A", "B", "C"}


def test_lines_are_items_and_repeated_options_a_list():
    text = "B\nVenus is hot.\nA. Mars\nB. Venus\n\nC. The Sun\n- Venus\nA planet\nC"
    items = [(item.letter, item.alone, item.listed) for item in PLANETS.items(text)]
    assert items == [
        ("B", True, False),
        ("A", False, True),
        ("B", False, True),
        ("C", False, True),
        ("B", True, False),
        ("C", True, False),
    ]
    assert [text[item.start : item.end] for item in PLANETS.items(text)][:2] == ["B", "A. Mars"]


@pytest.mark.parametrize(
    ("clause", "letters"),
    [
        ("So option B", "B"),
        ("A and (C)", "AC"),
        ("C. Venus", "C"),
        ("I think Venus", "B"),
        ("Venus, he said", ""),
        ("Plan", ""),
    ],
)
def test_the_subject_is_the_option_at_the_end_of_a_clause(clause, letters):
    assert PLANETS.subject(clause) == set(letters)


def test_texts_that_cannot_be_told_apart_are_not_used():
    assert named_options(("yes", "Yes", "no"), "ABC").mentioned("yes, no") == {"C"}
