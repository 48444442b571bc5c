r"""What a response gives as its answer: a letter, a number, or a formula.

Each kind has a function that reads the response in steps, from what is stated to what is merely there. The first step
that finds anything decides: one answer is returned; several that differ, such as "A and B", give None, and so does a
statement that there is no answer. None of the functions raises on any text, and all take time linear in it.

For every kind, before the first step:

- Thoughts (`<think>`) are cut, with or without their opening tag. A response that ends within a thought has no answer.
- Everything from a run-on new `Question:` or a special token on is cut.

choice (`extract_choice`), of a text without markdown and LaTeX:

1. The last statement: "the answer is", "I choose", "... is correct", `\boxed{}`, a line with only a letter. The text of
   an option counts as its letter.
2. Lines that begin with a letter, but for those that repeat the list of options.
3. Letters that are set apart, such as (B) or "option B", in sentences that rule nothing out.
4. Texts of options, in such sentences.

number (`extract_number`), of a text without markdown and LaTeX:

1. The last statement: "the answer is", `\boxed{}`, `#### 42`, "... is the answer".
2. The last equation, conclusion or sentence with a number. A response that breaks off was still calculating.

Numbers lose commas, currency, units and trailing zeros.

math (`extract_math`), of a text with its LaTeX:

1. The last `\boxed{}` with balanced braces.
2. The last statement: "the answer is", `Answer:`, `#### 42`.
3. A last line, or a last display, that is nothing but a formula.
4. A last sentence that concludes: "So the area is $5$."

What letters and numbers are is settled by their form. Formulas can be written in many, so that answers of this kind are
compared by `same_math` of `expressions` and not as texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from actframe.benchmarks.calculations import concluded_numbers, stated_numbers
from actframe.benchmarks.claims import NO_ANSWER
from actframe.benchmarks.formulas import boxed_formulas, closing_formulas, concluded_formulas, stated_formulas
from actframe.benchmarks.letters import line_letters, other_letters, stated_letters
from actframe.benchmarks.options import named_options
from actframe.benchmarks.responses import final_part, plain_text, with_plain_numbers

__all__ = ["extract_choice", "extract_math", "extract_number"]


def extract_choice(response: str, options: Sequence[str] | None = None, letters: str = "ABCD") -> str | None:
    r"""The letter that a response chooses, or None where it chooses none or several.

    1. Statements, the last of which decides: "the answer is", "I choose", "... is correct", `\boxed{}`, a line with
       only a letter. They may name the option by its text. Negated statements do not count.
    2. Lines that begin with a letter, but for those that repeat the list of options.
    3. Letters that are set apart, such as (B) or "option B", in sentences that rule nothing out.
    4. Texts of options in sentences that rule nothing out: the only one; else the one of the conclusion; else the
       one of the first sentence.

    A letter counts more than the text beside it, since it is the letter that was asked for.

    Args:
        response: what the model wrote.
        options: the texts of the options, in the order of `letters`; without them only letters are found.
        letters: the capital letters of the options.

    >>> planets = ["Mars", "Venus", "Jupiter", "Saturn"]
    >>> extract_choice("It is not (A). The answer is (C).", planets)            # 1. statements
    'C'
    >>> extract_choice(r"I first thought B, but it must be \boxed{\text{C}}")
    'C'
    >>> extract_choice("The correct answer is: Jupiter, the gas giant.", planets)
    'C'
    >>> extract_choice("C. Jupiter\n\nA. Mars\nB. Venus\nC. Jupiter\nD. Saturn", planets)  # 2. lines
    'C'
    >>> extract_choice("(A) and (B) cannot be large, while (C) certainly can.")  # 3. set apart
    'C'
    >>> extract_choice("By far the largest is Jupiter.", planets)               # 4. texts
    'C'
    >>> extract_choice("The answer is A and B."), extract_choice("A planet, I think."), extract_choice("")
    (None, None, None)
    """
    names = named_options(tuple(options or ()), letters)
    text = with_plain_numbers(plain_text(response))
    items = names.items(text)
    found = stated_letters(text, names, items) or line_letters(text, items) or other_letters(text, names, items)
    return _only(found)


def extract_number(response: str, question: str = "") -> str | None:
    r"""The number that a response gives as its answer, or None where it gives none or several.

    1. Statements, the last of which decides: "the answer is", `\boxed{}`, `#### 42`, "... is the answer". Of an
       equation, the right side counts.
    2. The last sentence with a number, where that is an equation, else the last conclusion ("So, ..."), else the last
       sentence with a number after all. Numbers that stand after "of", "for", "in", "per" and the like count only where
       there is no other.

    A response that breaks off in the middle of a sentence was still calculating: only a statement counts, or a
    conclusion after which no further step was begun.

    A sentence that repeats the question is no result, where the question is known.

    The number comes without its unit (`$`, `%`, apples) in the form of `canonical_number`: "1,450.00 dollars" is
    `1450`, "3/4" is `0.75`, "1/3" stays `1/3`.

    Args:
        response: what the model wrote.
        question: what it was asked.

    >>> extract_number("12 apples and 3 pears make 15 fruits. The answer is 15.")   # 1. statements
    '15'
    >>> extract_number(r"\[ 6 \times 7 = \boxed{42} \]"), extract_number("#### 1,450.00 dollars")
    ('42', '1450')
    >>> extract_number("She has 5 + 3 = 8 pens in 2 boxes.")                        # 2. sentences
    '8'
    >>> extract_number("So, it is 180 miles in 3 hours. A long way!"), extract_number("-10")
    ('180', '-10')
    >>> extract_number("It is 3 or 4."), extract_number("I cannot tell."), extract_number("We add 5 to 7. Then")
    (None, None, None)
    """
    text = plain_text(response)
    return _only(stated_numbers(text) or concluded_numbers(text, question))


def extract_math(response: str) -> str | None:
    r"""The formula that a response gives as its answer, or None where it gives none or several.

    1. The last `\boxed{}`. Boxes that are listed (`\boxed{2} and \boxed{3}`) are one answer, `2, 3`; those of which
       only one may be meant (`or`) are several. A box that is never closed was cut off, and is none.
    2. Statements, the last of which decides: "the answer is", `Answer:`, `#### 42`. What counts is the formula, alone
       or set off by dollars, without its reasons; or else up to three words.
    3. The last line, or what is displayed last, where that is nothing but a formula.
    4. The last sentence, where that is whole and concludes with a formula or a number ("So, ...", "Thus, ...").

    It comes without delimiters, sizes and thousands (see `bare_expression`); of `3 + 4 = 7` only the 7 is left. Compare
    it by `same_math`.

    >>> extract_math(r"So $x = \boxed{\dfrac{1}{2}}$."), extract_math("The answer is $(3, 4)$, as we saw.")
    ('\\frac{1}{2}', '(3, 4)')
    >>> extract_math("We add them.\n$$3 + 4 = 7$$"), extract_math("The roots are \\boxed{2} and \\boxed{3}.")
    ('7', '2, 3')
    >>> extract_math(r"The answer is $2$ or $3$."), extract_math(r"\boxed{2} ... no, \boxed{3"), extract_math("x is 2")
    (None, None, None)
    """
    text = final_part(response)
    said = boxed_formulas(text) or stated_formulas(text)
    return _only(said or closing_formulas(text) or concluded_formulas(text))


def _only(found: set[str]) -> str | None:
    return min(found) if len(found) == 1 and NO_ANSWER not in found else None
