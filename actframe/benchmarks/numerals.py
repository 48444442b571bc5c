"""Numbers in plain text: where they stand, what they are worth, and the one way in which each is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Numeral", "canonical_number", "find_numerals", "number_in", "number_word"]

MOST_DIGITS = 60
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = {word: value for value, word in enumerate(SMALL)} | {word: 10 * value for value, word in enumerate(TENS, 2)}

NUMERAL = re.compile(
    r"(?<![\w.^])(?P<sign>-\s?|\+|(?:minus|negative)\s)?(?:[$€£¥]\s?(?P<inner>-)?)?"
    r"(?P<whole>0,\d+(?!,?\d)|\d{1,3}(?:,\d{3}){1,20}(?!,?\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?!\d)"
    r"(?:(?:e|\s?[*x]\s?10\^\{?)(?P<exponent>[-+]?\d{1,3})(?!\w)"
    r"|\s(?P<over>\d+)/(?P<mixed>\d+)(?![\w/])|\s?/\s?(?P<under>\d+)(?![\d/]|\.\d))?"
    rf"(?:\s(?P<scale>{'|'.join(SCALES)})(?!\w))?(?!(?:st|nd|rd|th)\b)",
    re.I,
)
AROUND_A_NUMBER = re.compile(r"[\s$€£¥%°.]*")
NUMBER_WORD = re.compile(
    rf"(?P<sign>minus\s|negative\s)?(?:(?P<tens>{'|'.join(TENS)})(?:[\s-](?P<unit>{'|'.join(SMALL[1:10])}))?"
    rf"|(?P<small>{'|'.join(SMALL)}))(?:\s(?P<scale>{'|'.join(SCALES)}))?(?![\w-])(?!\s(?:of|or|and)\b)",
    re.I,
)


@dataclass(frozen=True)
class Numeral:
    """A number where it stands in a text: `text[start:end]` is worth `value`."""

    start: int
    end: int
    value: Fraction


def find_numerals(text: str) -> Iterator[Numeral]:
    """The numbers of a plain text from left to right, without their units.

    Ordinals (`4th`), digits within words (`H2O`), and digits by the hundred are none.

    >>> text = "1,450.00 dollars, -$5, 50%, 3/4, 1 1/2, 6e3, 2 million, minus 3, 10 - 4"
    >>> [canonical_number(numeral.value) for numeral in find_numerals(text)]
    ['1450', '-5', '50', '0.75', '1.5', '6000', '2000000', '-3', '10', '4']
    """
    for match in NUMERAL.finditer(text):
        value = _value(match)
        if value is not None:
            negative = (match["sign"] or "+")[0] != "+" and _is_sign(text, match)
            yield Numeral(match.start(), match.end(), -value if negative != bool(match["inner"]) else value)


def number_in(text: str) -> str | None:
    """The number that a text is, in canonical form; None where it is more than a number with its sign and unit.

    >>> number_in(" 1,450"), number_in("-$7.50"), number_in("Apollo 11"), number_in("3 or 4")
    ('1450', '-7.5', None, None)
    """
    found = list(find_numerals(text))
    if len(found) != 1:
        return None
    around = text[: found[0].start] + text[found[0].end :]
    return canonical_number(found[0].value) if AROUND_A_NUMBER.fullmatch(around) else None


def number_word(text: str) -> Fraction | None:
    """The number that `text` begins with as a word.

    >>> [str(number_word(text)) for text in ("fifteen apples", "minus twenty-one", "two thousand", "one of them")]
    ['15', '-21', '2000', 'None']
    """
    match = NUMBER_WORD.match(text)
    if not match:
        return None
    value = WORDS[(match["tens"] or match["small"]).lower()] + WORDS[(match["unit"] or "zero").lower()]
    scaled = value * (SCALES[match["scale"].lower()] if match["scale"] else 1)
    return Fraction(-scaled if match["sign"] else scaled)


def canonical_number(value: Fraction) -> str:
    """The one way to write a number: as a decimal where that ends, else as a fraction in lowest terms.

    >>> [canonical_number(Fraction(text)) for text in ("1450.00", "3/4", "-10", "2/6")]
    ['1450', '0.75', '-10', '1/3']
    """
    twos, odd = _divided_out(value.denominator, 2)
    fives, rest = _divided_out(odd, 5)
    places = max(twos, fives)
    if rest != 1 or places == 0:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _value(match: re.Match[str]) -> Fraction | None:
    """What the digits of a numeral are worth, without its sign; None past sixty digits or over zero."""
    whole, over, under = match["whole"], match["over"] or "0", match["under"] or match["mixed"] or "1"
    if max(map(len, (whole, over, under))) > MOST_DIGITS or int(under) == 0:
        return None
    number = Fraction(whole.replace(",", "." if whole.startswith("0,") else ""))
    number = number + Fraction(int(over), int(under)) if match["over"] else number / int(under)
    number *= Fraction(10) ** int(match["exponent"] or 0)
    return number * SCALES[match["scale"].lower()] if match["scale"] else number


def _is_sign(text: str, match: re.Match[str]) -> bool:
    """Whether a minus belongs to its number: in `10 - 5` it is an operation, in `- 5 apples` it may be a bullet."""
    before = text[max(0, match.start() - 3) : match.start()].rstrip()[-1:]
    apart = match["sign"].strip() == "-" and match["sign"] != "-"
    return before in ("=", "(", ":") if apart else not (before.isdigit() or before in (")", "%"))


def _divided_out(number: int, prime: int) -> tuple[int, int]:
    """How often `prime` divides `number`, and what is left."""
    times = 0
    while number % prime == 0:
        number //= prime
        times += 1
    return times, number
