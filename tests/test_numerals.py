"""Numbers in text: which are found, what they are worth, how they are written."""

from fractions import Fraction

import pytest

from actframe.benchmarks.numerals import canonical_number, find_numerals, number_word


def found(text):
    return [canonical_number(numeral.value) for numeral in find_numerals(text)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,450.00 dollars", ["1450"]),
        ("It costs 1,450, or 2,000.", ["1450", "2000"]),
        ("1, 2,3 and 12,34", ["1", "2", "3", "12", "34"]),
        ("-10 and -$5 and $-5 and +3", ["-10", "-5", "-5", "3"]),
        ("10 - 5, 10-5, 10 -5, (2) - 1, 5% - 3", ["10", "5", "10", "5", "10", "5", "2", "1", "5", "3"]),
        ("x = -5, x = - 5, minus 7, 3 minus 2", ["-5", "-5", "-7", "3", "2"]),
        ("- 5 apples\n-6", ["5", "-6"]),
        ("3/4, 1 1/2, 2/6, 1/0", ["0.75", "1.5", "1/3"]),
        ("6e3, 1.5e-3, 6 * 10^2, 1e9999", ["6000", "0.0015", "600", "1"]),
        ("2 million, 3.5 thousand, 2 millions", ["2000000", "3500", "2"]),
        (".5 and 0,75 and 10.", ["0.5", "0.75", "10"]),
        ("H2O, x2, v1.2.3, the 4th and 21st, 5 m^2", ["5"]),
        ("15kg, 62.5%", ["15", "62.5"]),
        ("9" * 61, []),
        ("no number", []),
    ],
)
def test_numbers_are_found_as_a_reader_finds_them(text, numbers):
    assert found(text) == numbers


def test_a_numeral_says_where_it_stands():
    (numeral,) = find_numerals("It costs -$1,450.50 now.")
    assert "It costs -$1,450.50 now."[numeral.start : numeral.end] == "-$1,450.50"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("fifteen", 15),
        ("Twenty-one books", 21),
        ("ninety nine", 99),
        ("minus three", -3),
        ("two hundred", 200),
        ("zero", 0),
        ("one of them", None),
        ("tenfold", None),
        ("often", None),
        ("forty or fifty", None),
        ("", None),
    ],
)
def test_number_words_are_read(text, number):
    assert number_word(text) == number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0.5", "-0.5"),
        ("1e3", "1000"),
        ("1/3", "1/3"),
        ("-7/14", "-0.5"),
        ("0.000001", "0.000001"),
        ("3/7", "3/7"),
    ],
)
def test_a_number_has_one_form(value, text):
    assert canonical_number(Fraction(value)) == text
