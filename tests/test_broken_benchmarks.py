"""The suite of benchmarks finds each way in which a benchmark can break its contract, and says which it is."""

import pytest
from mutants import Mutant, assert_found, assert_found_by_nothing_else, checks_of

from actframe import BenchmarkAdapter, Question, Verdict
from actframe.benchmarks.prompting import Message
from actframe.testing import BenchmarkAdapterTests

COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "sun": "yellow"}


class Colours(BenchmarkAdapter):
    """Keeps its contract; the others break one promise each."""

    name = "colours"

    def questions(self):
        for thing, colour in COLOURS.items():
            yield Question(f"colours/{thing}", f"What colour is {thing}?", "AB"[colour < "c"], choices=("c..z", "a..b"))

    def extract_answer(self, response, question):
        found = [letter for letter in response if letter in "AB"]
        return found[-1] if found else None

    def reference(self, question, style):
        return question.answer


class NeedsMore(Colours):
    def __init__(self, mode):
        self.mode = mode


class IgnoresOptions(Colours):
    @classmethod
    def open(cls, options):
        return cls()


class SameIds(Colours):
    def questions(self):
        for question in super().questions():
            yield Question(question.id[:9], question.text, question.answer, choices=question.choices)


class OtherOrder(Colours):
    asked = 0

    def questions(self):
        type(self).asked += 1
        return list(super().questions())[:: (-1) ** type(self).asked]


class OneCursor(Colours):
    def questions(self):
        self.place = 0
        found = list(super().questions())
        while self.place < len(found):
            self.place += 1
            yield found[self.place - 1]


class HoldsAFunction(Colours):
    def __init__(self):
        self.lower = lambda text: text.lower()


class OrderOfASet(Colours):
    def questions(self):
        found = {question.id: question for question in super().questions()}
        for each in set(found):
            yield found[each]


class Tuples(Colours):
    def identity(self):
        return {"things": tuple(COLOURS)}


class EndsWithAnAnswer(Colours):
    def conversation(self, question, prompting):
        return [*super().conversation(question, prompting)[: prompting.chat], Message("assistant", "I think")]


class ShowsTheQuestion(Colours):
    def examples(self, question, count):
        return [question] if count == 1 else super().examples(question, count)


class FewerExamples(Colours):
    def examples(self, question, count):
        return list(self.questions())[: count if count > 1 else 0] if count != 1 else super().examples(question, 1)


class TakesTheFirst(Colours):
    def extract_answer(self, response, question):
        return response.upper().strip()[0] if response.strip() != "A" else "A"

    def judge(self, response, question):
        return Verdict(response[:1], response == question.answer)


class CountsRightOnes(Colours):
    def judge(self, response, question):
        return Verdict(None, int(self.score(self.extract_answer(response, question), question)))


class EverythingIsRight(Colours):
    def score(self, answer, question):
        return True


class ReadsItsReferenceWrong(Colours):
    def reference(self, question, style):
        return f"{question.answer}, not {'BA'['AB'.index(question.answer)]}" if style == "reason" else question.answer


class JudgesWithATuple(Colours):
    def judge_choices(self, likelihoods, question):
        return "A", True


class NoRoom(Colours):
    def max_new_tokens(self, style):
        return 0


MUTANTS = [
    Mutant(
        NeedsMore,
        "test_it_has_a_name_and_opens_or_says_what_it_needs",
        "raised TypeError (NeedsMore.__init__() missing 1 required positional argument: 'mode')",
        arguments=("fast",),
    ),
    Mutant(IgnoresOptions, "test_an_option_that_it_does_not_have_is_refused", "that do not exist"),
    Mutant(SameIds, "test_ids_are_texts_and_unique", "1 ids are there more than once, such as 'colours/s'"),
    Mutant(
        OtherOrder,
        "test_questions_are_the_same_at_every_call",
        "in another order, the second time",
        frozenset(
            {
                "test_two_who_ask_at_once_do_not_disturb_each_other",
                "test_it_can_be_pickled_and_gives_the_same_questions_again",
                "test_questions_are_the_same_in_another_process",
            }
        ),
    ),
    Mutant(OneCursor, "test_two_who_ask_at_once_do_not_disturb_each_other", "two iterations side by side"),
    Mutant(
        HoldsAFunction,
        "test_it_can_be_pickled_and_gives_the_same_questions_again",
        "it cannot be pickled",
        frozenset({"test_questions_are_the_same_in_another_process"}),
    ),
    Mutant(OrderOfASet, "test_questions_are_the_same_in_another_process", "in another process it asks"),
    Mutant(Tuples, "test_labels_are_safe_for_json", "identity() comes back from JSON as"),
    Mutant(EndsWithAnAnswer, "test_a_conversation_ends_with_the_question", "ends with a message of 'assistant'"),
    Mutant(ShowsTheQuestion, "test_examples_are_solved_and_never_the_question_itself", "shown as its own example"),
    Mutant(FewerExamples, "test_more_examples_than_there_are_is_a_benchmark_error", "it showed the 6 it has"),
    Mutant(TakesTheFirst, "test_extraction_never_raises", "raised IndexError"),
    Mutant(CountsRightOnes, "test_judging_never_raises_and_says_what_json_can_hold", "not True or False"),
    Mutant(EverythingIsRight, "test_no_answer_is_not_a_right_answer", "score(None) says that 'colours/sky'"),
    Mutant(ReadsItsReferenceWrong, "test_the_reference_is_a_right_answer", "extract_answer reads 'A'; the question"),
    Mutant(JudgesWithATuple, "test_choices_are_ranked_and_the_likeliest_is_judged", "which is not a Verdict"),
    Mutant(NoRoom, "test_lengths_and_stops_are_what_generation_takes", "max_new_tokens('direct') is 0"),
]


class TestColours(BenchmarkAdapterTests):
    @pytest.fixture
    def adapter(self):
        return Colours()


def test_there_is_a_broken_benchmark_for_every_check():
    assert {mutant.check for mutant in MUTANTS} == checks_of(BenchmarkAdapterTests)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_benchmark_is_found_by_the_check_for_it(mutant):
    assert_found(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_benchmark_is_found_by_nothing_else(mutant):
    assert_found_by_nothing_else(mutant)
