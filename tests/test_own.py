"""Questions of the user's own: what is taken for one, and how answers are read."""

import pickle

import pytest

from actframe import Question
from actframe.benchmarks.own import Asked, as_question, options_in
from actframe.errors import BenchmarkError

PLANET = {"question": "Largest planet?", "choices": ["Mars", "Jupiter", "Venus"], "answer": "B"}


def read(question, response):
    question = as_question(question)
    return Asked(question).extract_answer(response, question)


@pytest.mark.parametrize("answer", ["B", "b", " B ", 1, "Jupiter"])
def test_an_answer_may_be_a_letter_an_index_or_the_text_of_a_choice(answer):
    assert as_question({**PLANET, "answer": answer}).answer == "B"


@pytest.mark.parametrize("answer", ["D", 3, -1, "Saturn", True, 1.5])
def test_an_answer_that_is_no_choice_is_refused(answer):
    with pytest.raises(BenchmarkError, match="is none of A, B, C, nor one of the choices"):
        as_question({**PLANET, "answer": answer})


def test_a_choice_that_looks_like_a_letter_is_taken_by_its_text():
    assert as_question({"question": "Which vitamin?", "choices": ["B", "A"], "answer": "A"}).answer == "B"


@pytest.mark.parametrize(("answer", "expected"), [(42, "42"), ("1,450", "1450"), ("$7.50", "7.5"), (None, "")])
def test_without_choices_the_answer_is_a_number_in_canonical_form(answer, expected):
    assert as_question({"question": "How much?", "answer": answer}).answer == expected


def test_a_dictionary_keeps_what_else_it_says():
    question = as_question({**PLANET, "subject": "sky", "id": "q7", "source": "mine"})
    assert (question.id, question.subject, question.metadata) == ("q7", "sky", {"source": "mine"})
    assert question.choices == ("Mars", "Jupiter", "Venus")


def test_an_answer_in_words_stays_as_it_is_also_with_a_number_in_it():
    assert as_question({"question": "Which flight?", "answer": "Apollo 11"}).answer == "Apollo 11"
    question = {"question": "Which flight?", "answer": "Apollo 11"}
    for response, right in [
        ("apollo 11", True),
        ("The answer is **Apollo 11**. It flew in 1969.", True),
        ("I first thought: the answer is Apollo 13. No, the answer is the Apollo 11!", True),
        ("11", False),
        ("The answer is Apollo 13.", False),
        ("", False),
    ]:
        asked = as_question(question)
        assert Asked(asked).judge(response, asked).correct == right, response


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("The answer is Dr. J. Smith. He wrote it.", "dr j smith"),
        ("Final answer: The St. Lawrence River\n\nQuestion: what else?", "st lawrence river"),
        ("\\boxed{\\text{Paris}}", "paris"),
        ("Paris\nIt lies on the Seine.", "paris"),
        ("<think>The answer is Lyon.</think>Paris", "paris"),
        ("<think>The answer is Lyon.", None),
        ("...", None),
    ],
)
def test_words_are_taken_from_the_last_statement_else_from_the_first_line(response, said):
    question = as_question({"question": "Which?", "answer": "Paris"})
    assert Asked(question).extract_answer(response, question) == said


def test_a_table_may_have_a_column_for_each_choice_and_an_index_as_text():
    question = as_question({"question": "Up?", "A": "NA", "B": "None", "C": "", "answer": "1", "level": 2})
    assert (question.choices, question.answer, question.metadata) == (("NA", "None"), "B", {"level": 2})


def test_questions_with_the_same_text_and_other_choices_have_other_ids():
    one, other = ({"question": "Which is right?", "choices": ["a", last]} for last in "bc")
    assert as_question(one).id != as_question(other).id


def test_the_same_text_has_the_same_id():
    assert as_question("Why?").id == as_question({"question": "Why?"}).id
    assert as_question("Why?").id != as_question("Why not?").id


def test_a_question_is_taken_as_it_is():
    question = Question("q", "?", "A")
    assert as_question(question) is question


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (7, "a question is a text, a dictionary or a Question, not int"),
        ({"text": "?"}, "this question lacks the column 'question'; it has 'text'"),
        ({"question": "?", "choices": "ABCD"}, "'choices' is a list of 2 to 26 options, not 'ABCD'"),
        ({"question": "?", "choices": ["only"]}, "'choices' is a list of 2 to 26 options"),
        ({"question": "?", "choices": ["a"] * 27}, "'choices' is a list of 2 to 26 options"),
        ({"question": "?", "choices": ["yes", " "]}, "'choices' should be options that are not empty"),
        ({"question": "?", "choices": ["yes", "no", "yes"]}, "the choice 'yes' is given twice"),
        ({"question": " "}, "'question' should be a text that is not empty, not ' '"),
    ],
)
def test_what_is_no_question_is_refused(asked, message):
    with pytest.raises(BenchmarkError, match=message):
        as_question(asked)


def test_choices_are_put_under_letters_and_read_as_a_letter():
    prompt = Asked(as_question(PLANET)).prompt(as_question(PLANET))
    assert prompt.startswith("Largest planet?\nA. Mars\nB. Jupiter\nC. Venus")
    assert read(PLANET, "The answer is (B).") == "B"
    assert read(PLANET, "It is Jupiter.") == "B"
    assert read(PLANET, "No idea.") is None


def test_options_in_the_text_are_read_as_a_letter():
    assert read("Capital of France?\nA) Lyon\nB) Paris\nC) Nice", "The answer is B) Paris.") == "B"


def test_a_question_without_options_is_read_as_a_number():
    assert read("What is 40 + 2?", "40 + 2 = 42, so the answer is 42.") == "42"
    assert read("What is the capital of France?", "The capital of France is Paris.") is None


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("?\nA. one\nB. two", ("one", "two")),
        ("?\n  (A) one\n  (B) two\n  (C) three", ("one", "two", "three")),
        ("?\nA: one", ()),
        ("?\nB. one\nC. two", ()),
        ("A. Lincoln was born when?", ()),
        ("?\nA. one\nC. three", ()),
        ("An old list\nA. x\nand the real one\nA. one\nB. two", ("one", "two")),
    ],
)
def test_options_are_lines_that_begin_with_consecutive_letters(text, options):
    assert options_in(text) == options


def test_an_asked_question_is_a_benchmark_of_one_that_pickles():
    question = as_question(PLANET)
    assert pickle.loads(pickle.dumps(Asked(question))).questions() == [question]
