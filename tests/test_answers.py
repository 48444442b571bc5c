"""What responses give as their answer: those of a real model, labelled; cases written by hand; any text at all."""

import json
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actframe.benchmarks.answers import _only, extract_choice, extract_math, extract_number
from actframe.benchmarks.arithmetic import Arithmetic
from actframe.benchmarks.expressions import same_math
from actframe.benchmarks.formulas import boxed_formulas, closing_formulas, stated_formulas
from actframe.benchmarks.numerals import canonical_number
from actframe.benchmarks.responses import final_part
from actframe.errors import BenchmarkError

DATA = Path(__file__).parent / "data" / "answers"
QUESTIONS = {question.id: question.text for question in Arithmetic().questions()}


def rows(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def extracted(row):
    if "options" in row:
        return extract_choice(row["response"], row["options"], row.get("letters", "ABCD"))
    return extract_number(row["response"], QUESTIONS.get(row.get("question"), ""))


def share_right(some, extract=extracted):
    return sum(extract(row) == row["answer"] for row in some) / len(some)


def usual_choice(row):
    """The cascade of a widely used harness: "answer is (X)", "Answer: X", the last capital letter."""
    for pattern in (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])", r"\b([A-J])\b(?!.*\b[A-J]\b)"):
        match = re.search(pattern, row["response"], re.S if pattern.endswith(")") else 0)
        if match:
            return match[1]
    return None


def usual_number(row):
    """What is widely used for word problems: the last number."""
    numbers = re.findall(r"-?[$0-9.,]{2,}|-?[0-9]+", row["response"])
    try:
        return canonical_number(Fraction(re.sub(r"[$,]", "", numbers[-1]).rstrip("."))) if numbers else None
    except ValueError:
        return None


@pytest.mark.parametrize("name", ["choice", "number"])
def test_what_a_real_model_writes_is_read_as_a_careful_reader_reads_it(name):
    collected = rows(name)
    assert len(collected) >= 100
    assert sum(row["answer"] is None for row in collected) >= 20
    assert share_right(collected) >= 0.95


@pytest.mark.parametrize("name", ["choice", "number"])
def test_responses_that_were_never_used_for_tuning_are_read_as_well(name):
    held_out = [row for row in rows(name) if row["split"] == "held_out"]
    assert len(held_out) >= 40
    assert share_right(held_out) >= 0.95


@pytest.mark.parametrize(("name", "usual"), [("choice", usual_choice), ("number", usual_number)])
def test_the_usual_patterns_read_far_fewer_of_the_same_responses(name, usual):
    assert share_right(rows(name), usual) < 0.8


@pytest.mark.parametrize("row", rows("hard"), ids=lambda row: repr(row["response"])[:60])
def test_a_hard_case_is_read_right(row):
    assert extracted(row) == row["answer"]


def test_formulas_that_end_a_calculation_are_read_as_the_numbers_that_they_are():
    """Labelled as numbers, these responses read as formulas say less, and hardly ever something else."""
    read = {extract_math: [0, 0], without_conclusions: [0, 0]}
    for row in rows("number"):
        for extract, counts in read.items():
            if (said := extract(row["response"])) is not None:
                counts[0 if row["answer"] and same_math(said, row["answer"]) else 1] += 1
    (right, wrong), (right_before, wrong_before) = read.values()
    # The one that is wrong gives 3.33% where the label, being a number, has no percent.
    assert (right - right_before, wrong - wrong_before) == (13, 1)


def without_conclusions(response):
    text = final_part(response)
    return _only(boxed_formulas(text) or stated_formulas(text) or closing_formulas(text))


@pytest.mark.parametrize(("kind", "usual"), [("choice", usual_choice), ("number", usual_number)])
def test_the_usual_patterns_miss_a_third_of_the_hard_cases(kind, usual):
    assert share_right([row for row in rows("hard") if row["kind"] == kind], usual) < 2 / 3


PIECES = r"""
A B C ( ) . , : ; ! ? ** _ ` # #### \boxed{ \text{ \frac{1}{ } $ % - 1 2,000 3.5 / = ½ e9 x <think> </think> <|x|>
answer is the not but option Answer: So Therefore Question: Jupiter Mars and or because correct I choose it's
"""
TOKENS = st.lists(st.sampled_from([*PIECES.split(), " ", "\n", "\n\n", "\u202f", "\u2028", "\u2212"]), max_size=60)
TEXTS = st.one_of(st.text(), TOKENS.map("".join), TOKENS.map(" ".join))


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(TEXTS, max_size=6), st.sampled_from(["ABCD", "AB", "ABCDEFGHIJ", "I", "QRS"]))
def test_any_text_gives_a_letter_of_the_options_or_nothing(response, options, letters):
    usable = letters[: len(options)] if options else letters
    assert extract_choice(response, options, letters) in {None, *usable}


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS)
def test_any_text_gives_a_canonical_number_or_nothing(response, question):
    number = extract_number(response, question)
    assert number is None or canonical_number(Fraction(number)) == number


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_any_text_gives_a_bare_formula_or_nothing(response):
    formula = extract_math(response)
    assert formula is None or formula.strip()


@given(st.fractions(max_denominator=10**6) | st.decimals(allow_nan=False, allow_infinity=False, places=4).map(Fraction))
def test_every_canonical_number_reads_as_itself(value):
    text = canonical_number(value)
    assert extract_number(text) == text
    assert extract_number(f"The answer is {text}.") == text
    assert extract_number(rf"\boxed{{{text}}}") == text


ADVERSARIAL = [
    *(
        "the answer is ",
        "answer is not ",
        "is the correct ",
        "so 5 ",
        "So 5. ",
        "A ",
        "A\n",
        "(A) ",
        "A and ",
        "Jupiter is ",
    ),
    *(
        "<think>",
        "</think>",
        r"\boxed{",
        r"\boxed{5} and ",
        "{",
        "$x$ ",
        r"\[ ",
        "the answer is $",
        r"\text{",
        r"\frac{1}{",
        "**",
        "*",
        "_",
        "`",
        '"',
        "#### ",
        "\nQuestion:",
        " ",
        "\n",
    ),
    *("1", "1,234,", "1 1/2 ", "1=", "3*", "(1)", "- 5", "½", "1\u202f000", "if (", "x" * 50 + " ", "not "),
]


def cpu_seconds(function, text):
    times = []
    for _ in range(3):
        start = time.process_time()
        function(text)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("piece", ADVERSARIAL, ids=repr)
def test_time_grows_no_faster_than_the_text(piece):
    options = ["Mars", "Venus", "Jupiter", "Saturn"]
    for extract in (lambda text: extract_choice(text, options), extract_number, extract_math):
        short, long = (f"x {piece * (size // len(piece))}" for size in (12_500, 100_000))
        # Eight times the text: linear time grows 8-fold, quadratic time 64-fold; much text is slower to go through.
        assert cpu_seconds(extract, long) < 40 * cpu_seconds(extract, short) + 0.02


@settings(max_examples=20, deadline=None, derandomize=True)
@given(TOKENS.map("".join).filter(bool), st.sampled_from(["choice", "number", "math"]))
def test_time_grows_no_faster_than_any_text_that_is_repeated(unit, kind):
    options = ["1,200", "No", "Jupiter", "None"]
    extract = {"choice": lambda text: extract_choice(text, options), "number": extract_number, "math": extract_math}[
        kind
    ]
    short, long = ((unit * (size // len(unit) + 1))[:size] for size in (10_000, 100_000))
    # Ten times the text: linear time grows 10-fold, quadratic time 100-fold.
    assert cpu_seconds(extract, long) < 30 * cpu_seconds(extract, short) + 0.02


MATH = [
    (r"The answer is 3. So $x = \boxed{\dfrac{1}{2}}$.", r"\frac{1}{2}"),
    ("$$x = 4$$\nThe answer is $(3, 4)$, as we saw.", "(3, 4)"),
    ("We add them.\n$$3 + 4 = 7$$", "7"),
    (r"<think>\boxed{3}</think> \boxed{4}", "4"),
    (r"\boxed{3} <think> or", None),
    ("\\boxed{3}\n\nQuestion: What is 2 + 2?\n\\boxed{4}", "3"),
    ("The answer is $2$ or $3$.", None),
    (r"\boxed{2} ... no, \boxed{3", None),
    (r"The answer is 7. \boxed{?}", None),
]


@pytest.mark.parametrize(("response", "formula"), MATH)
def test_a_formula_is_read_from_the_last_box_or_statement_or_line(response, formula):
    assert extract_math(response) == formula


def test_letters_that_are_no_letters_are_refused():
    for letters in ("", "abcd", "A B", "AAB", "1234"):
        with pytest.raises(BenchmarkError, match=r"capital letters that differ, such as 'ABCD', not"):
            extract_choice("C", letters=letters)


def test_an_option_beyond_those_there_are_is_no_answer():
    assert extract_choice("The answer is D.", ["yes", "no"]) is None
    assert extract_choice("The answer is B.", ["yes", "no"]) == "B"


def test_options_that_look_like_other_things_are_told_apart():
    assert extract_choice("The answer is 2.", ["12", "2", "1/2", "-2"]) == "B"
    assert extract_choice("The answer is 1/2.", ["12", "2", "1/2", "-2"]) == "C"
    assert extract_choice("It is nitric acid.", ["acid", "nitric acid", "base", "salt"]) == "B"
    assert extract_choice("None of the above.", ["Mars", "Venus", "All of them", "None of the above"]) == "D"
    assert extract_choice("The answer is C.", ["Python", "Java", "Rust", "C"]) == "C"
    assert extract_choice("The derivative is 3x².", ["x^2", "3x", "3x^2", "x^4/4"]) == "C"
    assert extract_choice("The answer is yes.", ["yes", "Yes"]) is None


def test_a_sentence_that_repeats_the_question_is_no_result():
    question = "A fence of 40 metres has a post every 4 metres. How many posts are there?"
    assert extract_number("A fence of 40 metres has a post every 4 metres.", question) is None
    assert extract_number("A fence of 40 metres has a post every 4 metres. There are 11 posts.", question) == "11"
    assert extract_number("The answer is 40.", question) == "40"
