"""Mathematical answers: which are the same, in the style of MATH-500, and that no text does harm."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actframe.benchmarks.expressions import bare_expression, normal_math, same_math

SAME = [
    # numbers
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", "1/2"),
    (r"\dfrac{7}{4}", r"1\frac{3}{4}"),
    ("1 3/4", r"\frac{7}{4}"),
    (r"-\frac{3}{8}", r"\frac{-3}{8}"),
    ("0.375", r"\frac{3}{8}"),
    ("1,234", "1234"),
    (r"12{,}500", "12500.00"),
    (r"73,\!440", "73440"),
    (r"\$27.50", "27.5"),
    ("€1,000", "1000"),
    ("-½", "-0.5"),
    (r"0.\overline{27}", r"\frac{3}{11}"),
    (r"3^{4}", "81"),
    (r"1.5\times10^{4}", "15000"),
    (r"10^{-3}", "0.001"),
    ("6!", "720"),
    (r"\binom{6}{2}", "15"),
    (r"12 + 5 = 17", "17"),
    (r"\frac{1}{3}", "0.33333333"),
    # percentages, degrees, units
    (r"15\%", "15"),
    (r"15\%", "0.15"),
    ("15 percent", r"\frac{3}{20}"),
    (r"72^\circ", "72"),
    ("72°", r"72^{\circ}"),
    (r"72\text{ degrees}", r"72^\circ"),
    (r"14\text{ cm}", "14"),
    (r"14\,\text{cm}^2", "14"),
    ("14 cm^2", "14"),
    ("14 square inches", "14"),
    (r"8\text{ p.m.}", "8"),
    # roots, constants, functions
    (r"\sqrt{75}", r"5\sqrt{3}"),
    ("√(75)", r"5\sqrt3"),
    (r"\frac{1}{\sqrt{5}}", r"\frac{\sqrt5}{5}"),
    (r"\frac{2\pi}{3}", r"\frac23\pi"),
    ("3π", r"3\pi"),
    (r"\log_3 81", "4"),
    (r"\sin\frac{\pi}{6}", r"\frac12"),
    ("7-2i", "-2i + 7"),
    # algebra
    ("(x+4)^2", "x^2 + 8x + 16"),
    (r"\frac{a}{2} + \frac{a}{3}", r"\frac{5a}{6}"),
    ("2xy^3", "2y^3x"),
    (r"\pi(R^2-r^2)", r"\pi(R+r)(R-r)"),
    # equations and relations
    ("x=9", "9"),
    ("y = 3x - 4", "3x - 4"),
    ("y = 3x - 4", "3x - y - 4 = 0"),
    ("4x + 6y = 8", "2x + 3y - 4 = 0"),
    (r"x \ge 6", "6 \\leq x"),
    # sets, lists, intervals, tuples, matrices
    ("-3, 8", "8, -3"),
    (r"\{2, 4, 6\}", "6, 4, 2"),
    (r"x = 2 \text{ or } x = 7", "2, 7"),
    ("2 and 7", "7,2"),
    (r"4 \pm \sqrt{3}", r"4-\sqrt{3}, 4+\sqrt{3}"),
    (r"\left( 5, \frac{\pi}{4} \right)", r"(5, \pi/4)"),
    (r"(-\infty, 1) \cup (6, \infty)", r"(6,\infty)\cup(-\infty,1)"),
    (r"[6, \infty)", r"x \ge 6"),
    ("2 < x < 5", "(2,5)"),
    (r"x \in [0, 3]", "[0,3]"),
    (r"\begin{pmatrix} 4 \\ -7 \end{pmatrix}", r"\begin{bmatrix}4\\-7\end{bmatrix}"),
    # words, letters, bases
    (r"\text{Beatrice}", "beatrice"),
    (r"\text{(C)}", "C"),
    ("(C)", "C"),
    (r"\text{July 14}", "July 14"),
    ("even", r"\text{even}"),
    ("3204_5", r"3204_{\text{five}}"),
    ("3204_5", "3204"),
    ("12_8", "1010_{2}"),
]
DIFFERENT = [
    ("0.33", r"\frac13"),
    ("0.0000001", "0.0000002"),
    (r"10^{-7}", r"2\cdot10^{-7}"),
    ("1 1/2", "11/2"),
    (r"\frac{12}{3}", r"\frac{1}{23}"),
    ("1,2", "1.2"),
    (r"15\%", "1500"),
    ("x=9", "y=9"),
    ("9", "x + 2 = 9"),
    ("2m", "2"),
    ("12 apples", "13 apples"),
    (r"8\text{ by }6", "8"),
    (r"3.14", r"\pi"),
    ("(x+4)^2", "x^2 + 16"),
    ("R^2 - r^2", "0"),
    ("y = 3x - 4", "y = 3x + 4"),
    (r"x > 6", r"x \ge 6"),
    ("(2, 5)", "(5, 2)"),
    ("(2, 5)", "[2, 5]"),
    ("(5, 2)", "2, 5"),
    ("[0, 3)", "(0, 3]"),
    ("2, 4, 6", "2, 4"),
    (r"a=1, b=2", "a=2, b=1"),
    (r"\begin{pmatrix}4 & -7\end{pmatrix}", r"\begin{pmatrix}4\\-7\end{pmatrix}"),
    (r"\infty", r"-\infty"),
    ("i", "-i"),
    ("east", "seat"),
    (r"\text{east}", "seat"),
    (r"\text{odd}", r"\text{even}"),
    (r"\text{(C)}", r"\text{(D)}"),
    (r"\text{none}", "0"),
    ("3204_5", "3204_6"),
    (r"5}{6", "5"),
    (r"\hat}{", r"\hat}{^2"),
    ("5", ""),
    ("", ""),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_answers_that_are_the_same_are_found_to_be(one, other):
    assert same_math(one, other) is True
    assert same_math(other, one) is True


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_answers_that_differ_are_told_apart(one, other):
    assert same_math(one, other) is False
    assert same_math(other, one) is False


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (r"$\left(3,\ \dfrac{\pi}{2}\right)$.", r"(3, \frac{\pi}{2})"),
        ("1,450.00", "1450"),
        (r"\$18.90", "18.9"),
        ("3 + 4 = 7", "7"),
        ("= 7", "7"),
        ("5 = x", "5 = x"),
        ("x = 3 + 4", "x = 3 + 4"),
        (r"2\pi \approx 6.28", r"2\pi"),
        (r"x \approx 6.28", r"x \approx 6.28"),
        (r"\[ x^2 \]", "x^2"),
        ("0,5", "0,5"),
        ("3/4", "3/4"),
        ("5!", "5!"),
        ("x" * 600 + ".", "x" * 600 + "."),
        ("", ""),
    ],
)
def test_typography_is_taken_off(text, bare):
    assert bare_expression(text) == bare


@pytest.mark.parametrize(
    "bomb",
    [
        "{" * 10_000 + "1" + "}" * 10_000,
        "(" * 40 + "1" + ")" * 40,
        r"\{" * 13 + "1" + r"\}" * 13,
        "1" * 100_000,
        "1+" * 50_000,
        "\\frac{" * 99,
        "\\",
    ],
    ids=lambda bomb: bomb[:10],
)
def test_what_is_too_long_too_deep_or_broken_is_only_the_same_as_itself(bomb):
    assert same_math(bomb, "1") is False
    assert same_math(bomb, bomb) is True


def test_no_text_runs_code(tmp_path):
    witness = tmp_path / "witness"
    attack = f"__import__('pathlib').Path('{witness}').touch()"
    for text in (attack, rf"\text{{{attack}}}", rf"\operatorname{{{attack}}}(1)", f"f({attack})", f"x_{{{attack}}}"):
        assert same_math(text, "x+1") is False
    assert not witness.exists()


def test_threads_may_compare_at_the_same_time():
    verdicts = {}

    def compare(number):
        verdicts[number] = (same_math(f"x+{number}", f"{number}+x"), same_math(f"x+{number}", f"{number}-x"))

    threads = [threading.Thread(target=compare, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == dict.fromkeys(range(8), (True, False))


PIECES = st.sampled_from(
    [*"{}()[]120.,xy=<^_+-*/!%ie|&½π ", "\\\\"]
    + [rf"\{name}" for name in ("frac", "sqrt", "le", "pi", "infty", "text{", "cup", "pm", "sin", "boxed{", "left(")]
)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join)), st.text(max_size=20))
def test_any_text_is_the_same_as_itself_and_compares_with_any_other(one, other):
    assert isinstance(same_math(one, other), bool)
    assert same_math(one, one) is bool(bare_expression(one))


def test_most_answers_that_are_the_same_have_one_form_and_no_others_do():
    without = [pair for pair in SAME if normal_math(pair[0]) != normal_math(pair[1])]
    assert len(without) <= 10, without
    # That it is no matter which unknown a value is of follows from `x = 9` being 9.
    assert [pair for pair in DIFFERENT if normal_math(pair[0]) == normal_math(pair[1])] == [("x=9", "y=9"), ("", "")]


def test_what_has_no_end_is_its_own_form():
    bomb = r"9^{9^{9^9}}"
    assert normal_math(bomb) == bomb
    assert normal_math(r"\sqrt{8}") == normal_math(r"2\sqrt{2}")
