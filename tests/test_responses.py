"""Responses as plain text: what is cut, what is unwrapped, where sentences end."""

import pytest

from actframe.benchmarks.answers import extract_choice, extract_number
from actframe.benchmarks.responses import final_part, plain_text, sentences, thought_is_open


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("<think>It is A.</think>\nB", "B"),
        ("A thought that the prompt opened</think>B", "B"),
        ("B <think>and then", ""),
        ("<think>Question: Which?\nIt is A.</think>\nB", "B"),
        ("<think>A</think>B\n\nQuestion: What?\n<think>and then", "B"),
        ("<thinking>A</thinking>B<think>C</think>D", "B\nD"),
        ("B\n\nQuestion: Which?\nAnswer: C", "B"),
        ("Question: Which?\nAnswer: C\n\nQuestion 2: What?", "Question: Which?\nAnswer: C"),
        ("The answer is C. Question: Which?", "The answer is C."),
        ("C<|im_end|>\n<|im_start|>user", "C"),
        ("the question is: which?", "the question is: which?"),
    ],
)
def test_thoughts_and_run_on_questions_are_cut(response, text):
    assert plain_text(response) == text


@pytest.mark.parametrize(
    ("response", "is_open"),
    [
        ("<think>The answer is 5.", True),
        ("The answer is 5. <think>Or is it?", True),
        ("<think>It is 5.</think>The answer is 5. <think>Or", True),
        ("<THINKING>The answer is 5.", True),
        ("<think>\nQuestion: How many? The answer is 5.", True),
        ("<think>The answer is 5.<|im_end|>", True),
        ("<think>It is 5.</think>The answer is 5.", False),
        ("It is 5.</think>The answer is 5.", False),
        ("The answer is 5.\n\nQuestion: And now?\n<think>Well", False),
        ("I think the answer is 5.", False),
        ("", False),
    ],
)
def test_a_response_that_ends_within_a_thought_gives_no_answer(response, is_open):
    assert thought_is_open(response) is is_open
    assert (final_part(response) == "") is (is_open or not response)
    answered = None if is_open or not response else "5"
    assert extract_number(response) == answered
    assert extract_choice(response.replace("5", "B")) == (answered and "B")


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("**B**", "(B)"),
        ('"B" or `C` or $D$ or [A]', "(B) or (C) or (D) or (A)"),
        ("**C. Jupiter** is __right__", "C. Jupiter is right"),
        ("### Answer\n\n#### 42", "Answer\n\nAnswer: 42"),
        ("3 * 4 = 12 and 2*3*4", "3 * 4 = 12 and 2*3*4"),
        ("<answer>C</answer>", "Answer: C"),
        (r"\boxed{\text{C}}", "Answer: C"),
        (r"$$\boxed{\dfrac{3}{4}}$$", "Answer:  3/4"),
        (r"\boxed{42", "Answer: 42"),
        (r"\(1{,}450 \times 2\) is 50\%", "1,450 * 2  is 50%"),
        (r"90^\circ", "90 degrees"),
    ],
)
def test_markdown_and_latex_are_unwrapped(response, text):
    unwrapped = "\n".join(line.strip(" $") for line in plain_text(response).splitlines())
    assert unwrapped.strip() == text


@pytest.mark.parametrize(
    ("response", "text"),
    [("\u221210", "-10"), ("1\u202f450", "1450"), ("2½", "2 1/2"), ("5 \u00d7 3 ≈ 15", "5 * 3 = 15"),
     ("\uff23\uff09", "C)"), ("m²", "m^2")],
)  # fmt: skip
def test_typography_is_made_plain(response, text):
    assert plain_text(response) == text


def test_sentences_end_at_dots_and_lines_but_not_at_enumerators():
    assert sentences("1. We add. It is C. Jupiter! So 5.\nB. yes\n\n(2) no") == [
        "1. We add.",
        "It is C. Jupiter!",
        "So 5.",
        "B. yes",
        "(2) no",
    ]
    assert sentences("It costs 5. She pays 10.") == ["It costs 5.", "She pays 10."]
    assert sentences("") == []
