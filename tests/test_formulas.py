"""The three ways to a formula, each by itself: boxes, statements, and how a response ends."""

import pytest

from actframe.benchmarks.claims import NO_ANSWER
from actframe.benchmarks.formulas import boxed_formulas, closing_formulas, concluded_formulas, stated_formulas


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        (r"\boxed{5}", {"5"}),
        (r"\boxed{5}. No: \boxed{6}", {"6"}),
        (r"\fbox{\frac{1}{2}}", {r"\frac{1}{2}"}),
        (r"\boxed 5", {"5"}),
        (r"\boxed{\frac{1}{1+\frac{2}{3}}}", {r"\frac{1}{1+\frac{2}{3}}"}),
        (r"\boxed{\{1, 2\}}", {r"\{1, 2\}"}),
        (r"\boxed{\boxed{5}}", {"5"}),
        (r"{ \boxed{5} } } \boxed{6}", {"6"}),
        (r"Put it into \boxed{}. It is \boxed{5}, in a \boxed{}", {"5"}),
        (r"$\boxed{2}$ and $\boxed{3}$", {"2, 3"}),
        (r"\boxed{2}, \boxed{3}, and \boxed{4}", {"2, 3, 4"}),
        (r"\boxed{2} \quad \text{or} \quad \boxed{3}", {"2", "3"}),
        (r"\boxed{2} or \boxed{2}", {"2"}),
        (r"\boxed{2}, which is not \boxed{3}", {"3"}),
        (r"\boxed{3} ... \boxed{4", {NO_ANSWER}),
        (r"\boxed{3 ... \boxed{4}", {"4"}),
        (r"\boxtimes", set()),
        (r"\boxed{}", set()),
        ("5", set()),
    ],
)
def test_boxes(text, formulas):
    assert boxed_formulas(text) == formulas


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("The answer is $x = 5$.", {"x = 5"}),
        ("The answer is $x$ = 5.", {"x = 5"}),
        ("The answer is 5. No, the answer is 6.", {"6"}),
        (r"The answer is \(\frac{1}{2}\), as we saw.", {r"\frac{1}{2}"}),
        ("The answer is:\n\\[\n x = \\frac{3}{4}\n\\]", {r"x = \frac{3}{4}"}),
        ("Final Answer: The final answer is $7$. I hope it is correct.", {"7"}),
        ("**Answer:** $\\sqrt{2}$", {r"\sqrt{2}"}),
        ("#### 1,234", {"1234"}),
        (r"<answer>\frac12</answer>", {r"\frac12"}),
        ("The answer is 5 apples.", {"5"}),
        ("The answer is 5, so there are 6.", {"5"}),
        (r"The answer is \$18.90.", {"18.9"}),
        ("The answer is (3, 4).", {"(3, 4)"}),
        ("The answer is 2x + 3, where x is free.", {"2x + 3"}),
        ("The answer is $3 + 4 = 7$.", {"7"}),
        (r"The answer is the set $\{1, 2\}$.", {r"\{1, 2\}"}),
        (r"The answer is the number of pairs, which is $\binom{5}{2} = 10$.", {"10"}),
        ("The solutions are $x=2$ and $x=3$.", {"x=2, x=3"}),
        ("The answer is $2$, $3$ and $5$.", {"2, 3, 5"}),
        ("The answer is 2, 3, and 5.", {"2, 3, 5"}),
        ("The answer is $2$ or $3$.", {"2", "3"}),
        ("The answer is Beatrice.", {"Beatrice"}),
        ("The answer is July 14.", {"July 14"}),
        ("The answer is not $5$ but $6$.", {"6"}),
        ("The answer is not $5$.", set()),
        ("The answer is unknown.", {NO_ANSWER}),
        ("The answer is found by dividing $6$ by $2$.", set()),
        ("The answer is as follows:", set()),
        ("The sum is $5$.", set()),
    ],
)
def test_statements(text, formulas):
    assert stated_formulas(text) == formulas


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("7", {"7"}),
        ("So we get\n$x=5$.", {"x=5"}),
        ("So\n3 + 4 = 7", {"7"}),
        ("So\n$$3 + 4 = 7$$", {"7"}),
        ("So\n\\[\n\\frac{1}{2}\n\\]", {r"\frac{1}{2}"}),
        ("\\[\\begin{aligned}x&=3+4\\\\&=7\\end{aligned}\\]", {"7"}),
        ("$$\\begin{pmatrix}1\\\\2\\end{pmatrix}$$", {r"\begin{pmatrix}1\\2\end{pmatrix}"}),
        (r"\text{odd}", {r"\text{odd}"}),
        ("3 + 4 =", set()),
        (r"x = \boxed{}", set()),
        ("So it is 7", set()),
        ("$2$ or $3$", set()),
        ("Beatrice", set()),
        ("", set()),
    ],
)
def test_ends(text, formulas):
    assert closing_formulas(text) == formulas


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("So the area is $5$.", {"5"}),
        ("We add.\n\nTherefore, the **total cost** was 1,215.36 dollars.", {"1215.36"}),
        (r"Thus, $x = \frac{1}{2}$.", {r"x = \frac{1}{2}"}),
        ("Then $y = 2$. Therefore the roots are $2$ and $3$.", {"2, 3"}),
        ("So $2$ of $3$ fit.", set()),
        ("So 4 people pay 4 * $86 = $320 dollars.", set()),
        ("So there are 4 who play both.", set()),
        ("So the area is $5$. We check this.", set()),
        ("So the area is $5$, and th", set()),
        ("So we need to find $x$.", set()),
        ("So 50% of the class are girls.", set()),
        ("The area is $5$.", set()),
        ("", set()),
    ],
)
def test_conclusions(text, formulas):
    assert concluded_formulas(text) == formulas
