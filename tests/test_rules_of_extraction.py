"""The rules by which answers are read, each by itself, for options of every kind: words, numbers, sentences, ten."""

import pytest

from actframe.benchmarks.answers import extract_choice, extract_math, extract_number
from actframe.benchmarks.base import LETTERS

OPTIONS = {
    "ten": ["zinc", "copper", "iron", "gold", "silver", "tin", "lead", "nickel", "cobalt", "mercury"],
    "numbers": ["12", "2", "1,200", "0.5", "-2", "1/2", "$5", "50%", "120", "20"],
    "true or false": ["True", "False"],
    "yes or no": ["Yes", "No"],
    "none": ["Mars", "Venus", "None", "All of the above"],
    "none of these": ["3", "5", "7", "None of these"],
    "sentences": [
        "It rises because warm air is lighter than cold air.",
        "It sinks since cold air is heavier.",
        "The air stays where it is.",
        "Nothing happens to the air, and it does not move.",
    ],
    "formulas": ["x^2", "3x", "3x^2", "x^4/4"],
    "lengths": ["10 m", "20 m", "20 cm", "2 km"],
    "years": ["1912", "1914", "1918", "1939"],
    "alike": ["acid", "nitric acid", "sulfuric acid", "an acid and a base"],
    "letters": ["A", "B", "C", "D"],
    "numerals": ["I only", "II only", "I and II only", "I, II and III"],
    "temperatures": ["-5°C", "5°C", "15°C", "0°C"],
}
every_kind = pytest.mark.parametrize("kind", OPTIONS)


def misread(kind, responses, expected=None):
    """The responses that are not read as their letter, or as `expected`; `{o}` is the letter of another option."""
    options = OPTIONS[kind]
    letters = LETTERS[: len(options)]
    wrong = []
    for index, (letter, text) in enumerate(zip(letters, options, strict=True)):
        for response in responses:
            filled = response.format(l=letter, t=text.rstrip("."), o=letters[(index + 1) % len(letters)])
            found = extract_choice(filled, options, letters)
            if found != (expected or {"letter": letter})["letter"]:
                wrong.append((filled, found))
    return wrong


@every_kind
def test_a_letter_alone_is_read(kind):
    alone = ["{l}", "({l})", "{l}.", "{l})", "**{l}**", "{l}. {t}", "({l}) {t}", "{l}) {t}", "{l}. {t}\n\nIt is so."]
    assert misread(kind, alone) == []


@every_kind
def test_a_stated_letter_is_read(kind):
    stated = [
        "The answer is {l}.", "The answer is ({l}).", "answer is {l}", "Answer: {l}", "The best answer is option {l}",
        "Final answer: {l}", "final answer is ({l}) {t}", "My answer: {l}) {t}", "The correct option is {l}: {t}",
        "The correct answer is **{l}. {t}**", "I choose {l}.", "Option {l} is correct.", "{l} is correct.",
        "Therefore, {l}.", "Therefore, the correct choice is {l}, {t}.", "Let's see. The answer must be {l}.",
        "The answer is: {l}\n\nLet me know if you need help!", r"\boxed{{{l}}}", r"\boxed{{\text{{{l}}}}}",
    ]  # fmt: skip
    assert misread(kind, stated) == []


@every_kind
def test_the_text_of_an_option_counts_as_its_letter(kind):
    texts = [
        "{t}", "{t}.", '"{t}"', "The answer is {t}.", 'The answer is "{t}".', "Answer: {t}", "So the answer is {t}.",
        "I would choose {t}.", r"\boxed{{{t}}}",
    ]  # fmt: skip
    assert misread(kind, texts) == []


@every_kind
def test_the_last_explicit_statement_wins(kind):
    changed = ["First I thought the answer is {o}. But the answer is {l}.", "It is not {o}. The answer is {l}."]
    assert misread(kind, [*changed, r"\boxed{{{o}}} No: \boxed{{{l}}}", "Answer: {o}\nAnswer: {l}"]) == []


@every_kind
def test_a_new_question_that_the_response_runs_on_into_is_cut_first(kind):
    run_on = ["The answer is {l}.\n\nQuestion: What else?\nAnswer: {o}", "{l}\n\n**Question 2:** Which?\n{o}"]
    assert misread(kind, [*run_on, "{l}<|im_end|>\n<|im_start|>assistant\n{o}", "Answer: {l}. Q: And?\nA: {o}"]) == []


@every_kind
def test_thoughts_are_cut_and_one_that_is_not_closed_is_no_answer(kind):
    closed = ["<think>The answer is {o}.</think>\nThe answer is {l}.", "The answer is {o}.</think>{l}"]
    assert misread(kind, closed) == []
    still_open = ["<think>The answer is {l}.", "The answer is {l}. <think>Or is it {o}?", "{l}\n<think>"]
    assert misread(kind, still_open, {"letter": None}) == []


@every_kind
def test_more_than_one_final_letter_is_no_answer(kind):
    several = ["The answer is {l} or {o}.", "{l} and {o}", "Both {l} and {o} are correct.", r"\boxed{{{l}, {o}}}"]
    assert misread(kind, [*several, "The answer is ({l}) and ({o}).", "Either ({l}) or ({o})"], {"letter": None}) == []


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("The answer is 1200.", "1,200"),
        ("$1,200.00", "1,200"),
        ("It is 2.0.", "2"),
        ("The answer is 0.50", "0.5"),
        ("The answer is 5 dollars.", "$5"),
        ("$5.00", "$5"),
        ("The answer is 50 percent.", "50%"),
        ("The answer is -2.", "-2"),
        ("We get 12 - 10 = 2.", "2"),
        ("The answer is 12 - 10 = 2.", "2"),
        ("So 10 + 2 = 12", "12"),
        ("12 - that is clear.", "12"),
        ("The answer is 3.", None),
        ("20 - 12", None),
    ],
)
def test_options_that_are_numbers_are_known_by_what_they_are_worth(response, number):
    options = OPTIONS["numbers"]
    found = extract_choice(response, options, LETTERS[: len(options)])
    assert found == (number and LETTERS[options.index(number)])


@pytest.mark.parametrize(
    ("response", "options", "letter"),
    [
        ("yes.", "Yes No", "A"),
        ("No, it cannot.", "Yes No", "B"),
        ("Yes, there is no doubt.", "Yes No", "A"),
        ("The answer is no, it does not.", "Yes No", "B"),
        ("No, the answer is yes.", "Yes No", "A"),
        ("Answer: no", "Yes No", "B"),
        ("Yes and no.", "Yes No", None),
        ("There is no way to tell.", "Yes No", None),
        ("I know it.", "Yes No", None),
        ("FALSE", "True False", "B"),
        ("False, because it is not.", "True False", "B"),
        ("The statement is false.", "True False", "B"),
        ("That is true.", "True False", "A"),
        ("It is not true.", "True False", None),
        ("True or false?", "True False", None),
    ],
)
def test_yes_and_no_true_and_false_are_read_where_they_are_verdicts(response, options, letter):
    assert extract_choice(response, options.split(), "AB") == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("None", "C"),
        ("The answer is none.", "C"),
        ("There is none.", "C"),
        ("None of them is.", None),
        ("All of the above", "D"),
    ],
)
def test_none_is_an_option_where_it_is_one(response, letter):
    assert extract_choice(response, OPTIONS["none"]) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("I", "I"),
        ("I. cobalt", "I"),
        ("The answer is I.", "I"),
        ("I think it is mercury.", "J"),
        ("(i)", "I"),
        ("j", "J"),
        ("A metal, I think.", None),
        ("The answer is K.", None),
    ],
)
def test_letters_that_are_words_are_told_from_words_among_ten(response, letter):
    assert extract_choice(response, OPTIONS["ten"], "ABCDEFGHIJ") == letter


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1,234", "1234"),
        ("$1,234.50", "1234.5"),
        ("€12.00", "12"),
        ("007", "7"),
        ("-$3.10", "-3.1"),
        ("1,000,000.0", "1000000"),
        ("50%", "50"),
        ("2.50 euros", "2.5"),
    ],
)
def test_numbers_lose_commas_currency_and_zeros(written, number):
    for response in (written, f"The answer is {written}.", f"#### {written}", rf"So it is \boxed{{{written}}}."):
        assert extract_number(response) == number


@pytest.mark.parametrize("extract", [extract_number, extract_math])
def test_the_rules_are_the_same_for_numbers_and_formulas(extract):
    assert extract("The answer is 5. No, the answer is 6.") == "6"
    assert extract("The answer is 5.\n\nQuestion: And now?\nThe answer is 6.") == "5"
    assert extract("<think>The answer is 5.</think>The answer is 6.") == "6"
    assert extract("The answer is 5. <think>But") is None
    assert extract("The answer is 5 or 6.") is None
    assert extract("The answer is unknown.") is None
    assert extract("The answer is 1,450.00.") == "1450"
