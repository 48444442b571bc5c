"""The contract of a benchmark: what an adapter of ten lines gets without asking."""

import math

import pytest

from actframe import BenchmarkAdapter, Question
from actframe.benchmarks.answers import extract_choice
from actframe.benchmarks.base import BenchmarkOptions, Likelihood
from actframe.benchmarks.prompting import Completion, Message, Prompting
from actframe.errors import BenchmarkError, SettingsError

SHOWN = Question("one", "Largest planet?", "B", choices=("Mars", "Jupiter"), solution="Jupiter is larger than Mars.")
ASKED = Question("two", "Red planet?", "A", choices=("Mars", "Jupiter"))


class Planets(BenchmarkAdapter):
    name = "planets"

    def questions(self):
        return [ASKED]

    def extract_answer(self, response, question):
        return extract_choice(response, question.choices, question.letters)


class Taught(Planets):
    def examples(self, question, count):
        return [SHOWN][:count]


def texts(adapter, question=ASKED, **prompting):
    return [(each.role, each.content) for each in adapter.conversation(question, Prompting(**prompting))]


def test_a_question_is_put_with_its_lettered_choices_and_what_to_do():
    assert texts(Planets(), chat=True) == [
        ("user", "Red planet?\nA. Mars\nB. Jupiter\nAnswer with the letter of the correct option.")
    ]
    ((_, reasoning),) = texts(Planets(), chat=True, style="reason")
    assert reasoning.endswith('Think step by step, then write "The answer is" and the letter of the correct option.')
    assert texts(Planets(), Question("free", "Why?", "because"), chat=True) == [("user", "Why?")]


def test_without_a_chat_template_everything_is_one_text_that_ends_where_the_answer_begins():
    ((_, text),) = texts(Taught(), chat=False, num_fewshot=1, system="A quiz.")
    assert text == (
        "A quiz.\n\n"
        "Largest planet?\nA. Mars\nB. Jupiter\nAnswer with the letter of the correct option.\nAnswer: B\n\n"
        "Red planet?\nA. Mars\nB. Jupiter\nAnswer with the letter of the correct option.\nAnswer:"
    )


def test_in_a_chat_each_example_is_a_question_and_its_answer():
    system, user, assistant, asked = Taught().conversation(ASKED, Prompting(1, "reason", "A quiz.", chat=True))
    assert (system, assistant) == (
        Message("system", "A quiz."),
        Message("assistant", "Jupiter is larger than Mars.\nThe answer is B."),
    )
    assert (user.role, asked.role) == ("user", "user")
    assert Taught().extract_answer(assistant.content, SHOWN) == "B"


def test_examples_that_do_not_exist_are_refused():
    with pytest.raises(BenchmarkError, match="'planets' has no examples to show: leave num_fewshot at 0"):
        Planets().conversation(ASKED, Prompting(num_fewshot=2))


def test_choices_are_ranked_as_letters_after_the_lettered_choices():
    context = "Red planet?\nA. Mars\nB. Jupiter\nAnswer:"
    assert Planets().completions(ASKED) == [Completion(context, " A"), Completion(context, " B")]
    taught = Taught().ranking(ASKED, Prompting(1, system="A quiz."))
    before = "A quiz.\n\nLargest planet?\nA. Mars\nB. Jupiter\nAnswer: B\n\n"
    assert taught == [Completion(before + context, " A"), Completion(before + context, " B")]


def test_a_question_without_choices_cannot_be_ranked():
    with pytest.raises(BenchmarkError, match="'free' of 'planets' has no choices to rank"):
        Planets().ranking(Question("free", "Why?", "because"), Prompting())


def test_the_likeliest_choice_is_the_answer_and_of_equals_the_first():
    def judged(*values):
        return Planets().judge_choices([Likelihood(value, False, 1) for value in values], ASKED)

    assert (judged(-1.0, -2.0).answer, judged(-1.0, -2.0).correct) == ("A", True)
    assert (judged(-2.0, -1.0).answer, judged(-2.0, -1.0).correct) == ("B", False)
    assert judged(-1.0, -1.0).answer == "A"
    assert judged(-math.inf, -math.inf).answer == "A"


def test_long_choices_are_also_compared_by_the_character():
    class Spelled(Planets):
        def completions(self, question):
            return [Completion(question.text, f" {choice}") for choice in question.choices]

    # By the sum Mars is the likelier one; by the character Jupiter is: -5/4 < -6/7.
    verdict = Spelled().judge_choices([Likelihood(-5.0, False, 1), Likelihood(-6.0, False, 2)], ASKED)
    assert (verdict.answer, verdict.correct, verdict.metrics) == ("A", True, {"accuracy_norm": 0.0})


def test_options_that_an_adapter_does_not_know_are_refused_by_name():
    assert isinstance(Planets.open(BenchmarkOptions()), Planets)
    with pytest.raises(BenchmarkError, match="benchmark 'planets' has no option 'data', 'split'; leave it out"):
        Planets.open(BenchmarkOptions(data="x.csv", split="test"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_fewshot": -1}, "num_fewshot is -1"), ({"style": "rhyme"}, "no prompt style 'rhyme'; there are direct")],
)
def test_prompting_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        Prompting(**options)
