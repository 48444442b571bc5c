"""The three ways to a letter, each by itself: statements, lines, and what else stands out."""

import pytest

from actframe.benchmarks.letters import line_letters, other_letters, stated_letters
from actframe.benchmarks.options import named_options

PLANETS = named_options(("Mars", "Venus", "Jupiter", "Saturn"), "ABCD")


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("The answer is C.", "C"),
        ("The best choice would be Jupiter.", "C"),
        ("I'd go with D", "D"),
        ("So it must be (B).", "B"),
        ("So A is too small.", ""),
        ("B is the right one", "B"),
        ("Both A and B are correct.", ""),
        ("Both A and B would be correct.", "AB"),
        ("Option A is correct. Option B is not correct.", "A"),
        ("The first option is A.", ""),
        ("The answer, because Mars is small, is larger than Venus", ""),
        ("B\n\nIt is hot.", "B"),
    ],
)
def test_statements(text, letters):
    assert stated_letters(text, PLANETS, PLANETS.items(text)) == set(letters)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("C. Jupiter", "C"),
        ("C. Jupiter\n\nA. Mars\nB. Venus", "C"),
        ("C. Jupiter\nThis is wrong, as it is far away.", ""),
        ("C. Jupiter\nThis is not far away.", "C"),
        ("D. Saturn\nA. Mars", "AD"),
    ],
)
def test_lines(text, letters):
    assert line_letters(text, PLANETS.items(text)) == set(letters)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("I like (B) most.", "B"),
        ("(A) is wrong; (B) fits.", "B"),
        ("It is Jupiter.", "C"),
        ("It is not Jupiter.", ""),
        ("Jupiter is the largest. Saturn has rings.", "C"),
        ("Saturn has rings. Mars is red. So Jupiter has moons.", "C"),
        ("Mars and Venus are small. Jupiter and Saturn are large.", "ABCD"),
    ],
)
def test_what_else_stands_out(text, letters):
    assert other_letters(text, PLANETS, PLANETS.items(text)) == set(letters)
