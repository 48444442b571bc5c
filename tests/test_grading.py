"""Questions taken and responses graded, from adapters that keep their contract and from those that do not."""

import pytest

from actframe import BenchmarkAdapter, Question
from actframe.benchmarks.arithmetic import Arithmetic
from actframe.benchmarks.general import General
from actframe.benchmarks.prompting import Prompting
from actframe.errors import BenchmarkError
from actframe.runs.generation import Response
from actframe.runs.grading import grade, make_conversation, take_questions


class Bad(BenchmarkAdapter):
    name = "bad"

    def __init__(self, *questions):
        self._questions = questions

    def questions(self):
        return self._questions

    def prompt(self, question):
        raise ZeroDivisionError("in the prompt")

    def extract_answer(self, response, question):
        return response

    def score(self, answer, question):
        raise ZeroDivisionError("in the score")


def response(text):
    return Response(text, [1], prompt_tokens=3, truncated=True)


def test_questions_come_in_their_order_up_to_the_limit():
    everything = list(General().questions())
    assert take_questions(General()) == everything
    assert take_questions(General(), 5) == everything[:5]
    assert take_questions(General(), 10_000) == everything


def test_a_limit_does_not_read_on():
    class Endless(Bad):
        def questions(self):
            number = 0
            while True:
                yield Question(str(number), "?", "A")
                number += 1

    assert [question.id for question in take_questions(Endless(), 3)] == ["0", "1", "2"]


def test_no_questions_and_two_of_one_id_are_errors():
    with pytest.raises(BenchmarkError, match="benchmark 'bad' has no questions"):
        take_questions(Bad())
    with pytest.raises(BenchmarkError, match="two questions with the id 'q'"):
        take_questions(Bad(Question("q", "1", "A"), Question("q", "2", "B")))


def test_a_prompt_that_cannot_be_made_names_its_question():
    with pytest.raises(BenchmarkError, match="'bad' failed to make the prompt of question 'q': ZeroDivisionError"):
        make_conversation(Bad(), Question("q", "1", "A"), Prompting(chat=False))


def test_a_response_is_graded_under_the_keys_of_a_record():
    question = take_questions(General(), 1)[0]
    assert grade(General(), question, response(f"The answer is ({question.answer}).")) == {
        "question_id": question.id,
        "subject": question.subject,
        "expected": question.answer,
        "extracted_answer": question.answer,
        "correct": True,
        "unparsed": False,
        "truncated": True,
        "metrics": {},
    }


def test_a_response_without_an_answer_is_unparsed_and_wrong():
    question = take_questions(Arithmetic(), 1)[0]
    graded = grade(Arithmetic(), question, response("I would rather not say."))
    assert (graded["extracted_answer"], graded["correct"], graded["unparsed"]) == (None, False, True)


class Counting(Arithmetic):
    """Answers are the same where they have as many digits."""

    def vote(self, answer, question):
        return str(len(answer)) if answer != "999" else 1 / 0


def test_a_wrong_answer_says_what_it_votes_for_where_that_is_not_itself():
    question = take_questions(Arithmetic(), 1)[0]
    assert grade(Counting(), question, response("The answer is 123456."))["vote"] == "6"
    assert "vote" not in grade(Counting(), question, response(f"The answer is {question.answer}."))
    assert "vote" not in grade(Counting(), question, response("I would rather not say."))
    assert "vote" not in grade(Counting(), question, response("The answer is 1."))
    assert "vote" not in grade(Arithmetic(), question, response("The answer is 123456."))
    with pytest.warns(RuntimeWarning, match=r"what the answer to question .* votes for \(ZeroDivisionError"):
        assert "vote" not in grade(Counting(), question, response("The answer is 999."))


def test_an_adapter_that_raises_costs_one_answer_with_a_warning():
    with pytest.warns(RuntimeWarning, match=r"'bad' failed on the response to question 'q' \(ZeroDivisionError"):
        graded = grade(Bad(), Question("q", "1", "A"), response("A"))
    assert (graded["extracted_answer"], graded["correct"], graded["unparsed"]) == (None, False, True)
