"""Mathematical answers, in LaTeX or plain: the form in which they are kept, and whether two of them are the same.

Whether they are is for math-verify to say. Of what could do that it is the one that knows how answers are written:
sets, intervals, tuples, matrices, percentages, equations. SymPy's own parsers of LaTeX know few of these, and need an
older ANTLR than math-verify's or another package.

What math-verify takes for products of letters, leaves out or rounds is compared before it is asked: words, numbers in a
base, decimals.
"""

from __future__ import annotations

import re
from fractions import Fraction

from actframe.benchmarks.numerals import canonical_number, find_numerals, number_word
from actframe.benchmarks.responses import CHARACTERS
from actframe.benchmarks.verifier import shared_verifier

__all__ = ["bare_expression", "normal_math", "same_math"]

MOST_CHARACTERS = 500
DEEPEST_NESTING = 12

SYMBOLS = CHARACTERS | str.maketrans(
    {
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "\u222a": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "±": r"\pm ",
        "≈": r"\approx ", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    }
)  # fmt: skip
DELIMITER = re.compile(r"(?<!\\)\$+|(?<!\\)\\[()\[\]]|\\displaystyle\b|\\(?:left|right)(?![a-zA-Z])\.?")
CURRENCY = re.compile(r"\\\$|\\pounds?\b|\\euro\b|[€£¥]")
SPACE = re.compile(r"\\[,;:!]|(?<!\\)\\\s|~|\s+")
FRACTION = re.compile(r"\\[dtc]frac(?![a-z])")
ROOT = re.compile(r"\\sqrt\s?\(([^()]*)\)")
FONT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
COMMAND = re.compile(r"\\[a-zA-Z]+")
LETTER = re.compile(rf"{FONT.pattern}|{COMMAND.pattern}|[A-Z](?!_)")
EQUALITY = re.compile(r"(?<![<>!\\=:])=(?!=)")

WORDS = re.compile(r"[A-Za-z][A-Za-z\d ,.'/-]*")
REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\overline\{(\d+)\}")
IN_BASE = re.compile(r"(-?[0-9][0-9A-Z]*)\s*_\s*\{?(?:\\text\{)?\s*([0-9]{1,2}|[a-z]{3,8})\s*\}{0,2}")
RATIONAL = re.compile(r"-?\d+(?:/\d+)?")
UNIT = re.compile(
    rf"(?<![\^_{{\\])\s*{FONT.pattern}\s?(?:\^\s?\{{?[23]\}}?)?$"
    r"|(?<=[\d}])(?:\s?[ckm]m(?:\s?\^\s?\{?[23]\}?)?|(?:\s(?!sin|cos|tan|log|ln|pi)[A-Za-z]{2,20}\.?){1,4})$"
)
PERCENT = re.compile(r"\s?(?:\\text\{\s?per\s?cent\s?\}|\bper\s?cent\b)", re.I)
OPENING, CLOSING = ("{", "(", "[", r"\{"), ("}", ")", "]", r"\}")
BRACKET = re.compile(r"\\.|[(){}\[\]]", re.S)
REMARK = re.compile(r".\\(?:text|mbox|mathrm)\s*\{(?!,?\s*(?:and|or)\s*\})")


def same_math(one: str, other: str) -> bool:
    r"""Whether two mathematical answers are the same, however each of them is written.

    1. The same text is the same answer, whatever its spaces, fonts, currency and delimiters.
    2. Words are the same in either case; numbers in a base, where their values are (one of them may leave out the
       base); decimals, where their values are exactly.
    3. The rest is compared by math-verify, and has to be equal from either side: units are ignored, `x = 5` is 5,
       `10\%` is 10 as well as 0.1, a decimal is the fraction or root that it gives to six places.

    What is longer than 500 characters, nested deeper than 12, or not shown to be equal within five seconds of
    processor time, is not the same. No text makes this raise or hang, in any thread: see `verifier`.

    Raises:
        ActframeError: math-verify is needed and not installed, or does not start.

    >>> same_math(r"\frac{1}{2}", "0.5"), same_math("x = 5", "5"), same_math(r"\$1{,}234.50", "1234.5")
    (True, True, True)
    >>> same_math("(3, 4)", "(4, 3)"), same_math("east", "seat"), same_math("12_3", "12_4")
    (False, False, False)
    """
    one, other = bare_expression(one), bare_expression(other)
    if _without_space(one) == _without_space(other):
        return bool(one)
    if max(len(one), len(other)) > MOST_CHARACTERS:
        return False
    for comparison in (_same_words, _same_in_base, _same_decimals):
        same = comparison(one, other)
        if same is not None:
            return same
    one, other = _with_capitals_apart(_without_unit(one), _without_unit(other))
    return _is_readable(one) and _is_readable(other) and shared_verifier.equal(one, other) is True


def normal_math(answer: str) -> str:
    r"""A text that is the same for answers that are, as far as algebra brings them to one form.

    For counting many answers, where `same_math` would compare each with each. Two answers with one form are the same;
    the reverse holds for numbers that end, fractions, words, roots, lists and polynomials, and not for all there is: a
    decimal is not the root that it gives to six places. What cannot be read, or not within five seconds of processor
    time, is its own form.

    Raises:
        ActframeError: as `same_math`.

    >>> normal_math(r"\frac{1}{2}"), normal_math("0.50"), normal_math(r"\text{East}"), normal_math("x = 5")
    ('0.5', '0.5', 'east', '5')
    """
    bare = bare_expression(answer)
    value, word = _number(bare), FONT.sub(r"\1", bare).strip("() .")
    if value is not None:
        return canonical_number(value)
    if WORDS.fullmatch(word) and re.search("[A-Za-z]{4}", word):
        return "".join(filter(str.isalnum, word)).casefold()
    (readable,) = _with_capitals_apart(_without_unit(bare))
    is_plain = len(bare) <= MOST_CHARACTERS and not IN_BASE.fullmatch(bare) and _is_readable(readable)
    form = shared_verifier.normal(readable) if is_plain else None
    if form is None:
        return _without_space(bare)
    return canonical_number(Fraction(form)) if RATIONAL.fullmatch(form) else form


def bare_expression(text: str) -> str:
    r"""An expression without typography: delimiters, sizes, thousands, currency; of `3 + 4 = 7` the 7.

    >>> bare_expression(r"$\left(3,\ \dfrac{\pi}{2}\right)$."), bare_expression("1,450.00"), bare_expression("3+4 = 7")
    ('(3, \\frac{\\pi}{2})', '1450', '7')
    """
    if len(text) > MOST_CHARACTERS:
        return text.strip()
    text = PERCENT.sub(r"\\%", CURRENCY.sub("", DELIMITER.sub("", text.translate(SYMBOLS)))).replace("{,}", ",")
    text = SPACE.sub(lambda space: "" if space[0] == r"\!" else " ", FRACTION.sub(r"\\frac", text))
    text = ROOT.sub(r"\\sqrt{\1}", text.strip(' "`*').rstrip(".,;: ").replace("- ", "-", text.startswith("- ")))
    text = _right_side(text)
    value = None if "/" in text else _number(text)
    return text if value is None else canonical_number(value)


def _right_side(text: str) -> str:
    """What is right of the last sign of equality, where nothing on either side is unknown: `3 + 4 = 7` is 7.

    Of what is approximated, it is the value that is said to be so.
    """
    exact = text.partition(r"\approx")[0].strip()
    if exact and _is_known(exact):
        text = exact
    *left, right = EQUALITY.split(text)
    return right.strip() if left and right.strip() and _is_known(text) else text


def _is_known(text: str) -> bool:
    return not re.search("[a-zA-Z]", COMMAND.sub("", FONT.sub("", text)))


def _number(text: str) -> Fraction | None:
    """The value of a text that is a number and nothing else; `0,5` may be a list in mathematics, and is none."""
    repeating = REPEATING.fullmatch(text)
    if repeating:
        sign, whole, first, cycle = repeating.groups()
        return Fraction(f"{sign}{whole or 0}.{first or 0}") + Fraction(
            int(f"{sign}{cycle}"), (10 ** len(cycle) - 1) * 10 ** len(first)
        )
    numeral = next(find_numerals(text), None)
    if numeral is None or (numeral.start, numeral.end) != (0, len(text)) or text.lstrip("-").startswith("0,"):
        return None
    return numeral.value


def _same_words(one: str, other: str) -> bool | None:
    """Whether two texts are the same, where both are words: letters would be multiplied, and `east` be `seat`."""
    marked = bool(FONT.search(one) or FONT.search(other))
    texts = [FONT.sub(r"\1", text).strip("() .") for text in (one, other)]
    if not all(WORDS.fullmatch(text) for text in texts):
        return None
    first, second = ("".join(filter(str.isalnum, text)).casefold() for text in texts)
    if marked and first == second:
        return True
    shortest = 3 if marked else 4
    return first == second if all(re.search(rf"[A-Za-z]{{{shortest}}}", text) for text in texts) else None


def _same_in_base(one: str, other: str) -> bool | None:
    """Whether two whole numbers in a base are the same; where one of them names none, it is that of the other."""
    first, second = IN_BASE.fullmatch(one), IN_BASE.fullmatch(other)
    if first and second:
        return _value_in_base(first) == _value_in_base(second)
    if first or second:
        return one.partition("_")[0].strip() == other.partition("_")[0].strip()
    return None


def _value_in_base(number: re.Match[str]) -> object:
    base = Fraction(number[2]) if number[2].isdigit() else number_word(number[2])
    try:
        return int(number[1], int(base or 0))
    except ValueError:
        return number[0]


def _same_decimals(one: str, other: str) -> bool | None:
    """Whether two numbers are equal, where both end: those that do not are written to some places."""
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return None
    endless = "/" in canonical_number(first) + canonical_number(second)
    return True if first == second else None if endless else False


def _without_unit(text: str) -> str:
    value = _number(text)
    return UNIT.sub("", text) if value is None else canonical_number(value)


def _with_capitals_apart(*texts: str) -> list[str]:
    """Expressions with `R` and `r` told apart where one of them has both: math-verify takes these for one unknown."""
    letters = [set(COMMAND.sub("", FONT.sub("", text))) for text in texts]
    capitals = {letter for some in letters for letter in some if letter.isupper() and letter.lower() in some}
    return [
        LETTER.sub(lambda letter: f"{letter[0]}_{{0}}" if letter[0] in capitals else letter[0], text) for text in texts
    ]


def _is_readable(text: str) -> bool:
    r"""Whether a text is balanced and shallow, and all of it formula.

    The time to read one doubles with every bracket within another; of `8\text{ by }6`, only the 8 would be read.
    """
    braces = depth = deepest = 0
    for bracket in BRACKET.findall(text):
        braces += (bracket == "{") - (bracket == "}")
        if braces < 0:
            return False
        depth += (bracket in OPENING) - (bracket in CLOSING)
        deepest = max(deepest, depth)
    return bool(text) and braces == 0 and deepest <= DEEPEST_NESTING and not REMARK.search(text)


def _without_space(text: str) -> str:
    r"""A text without fonts and the spaces that part nothing: those of `1 1/2` and `\pi x` do."""
    return re.sub(r"\s+(?!\w)|(?<!\w)\s+", "", FONT.sub(r"\1", text))
