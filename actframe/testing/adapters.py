"""BenchmarkAdapterTests: what every benchmark must do, for the tests of yours.

from actframe.testing import BenchmarkAdapterTests

class TestColours(BenchmarkAdapterTests):
    @pytest.fixture
    def adapter(self):
        return Colours()
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from actframe.benchmarks.base import BenchmarkAdapter, BenchmarkOptions, Likelihood, Question, Verdict
from actframe.benchmarks.prompting import PROMPT_STYLES, SCORINGS, Message, Prompting, PromptStyle
from actframe.errors import ActframeError, BenchmarkError
from actframe.testing.installed import assert_usable

__all__ = ["BenchmarkAdapterTests"]

RESPONSES = [
    "",
    " \n\t",
    "A",
    "The answer is (B).",
    "The answer is",
    "Answer: " * 200,
    "9" * 5000,
    "-1e999999 and 1/0, nan, inf, 1,2,3.4.5",
    "\\boxed{\\frac{1}{",
    "\\boxed{" * 300,
    "($[*+?{\\^|",
    "<think>never ends",
    "</think>",
    '{"answer": [1, {}]}',
    "東京 🙂 ١٢٣ \u202e \x00 \x1b[0m",
    "\ud83d",
    "\n" * 3000,
]
"""What models write when nobody looks: nothing, noise, numbers beyond all bounds, formulas that never end."""

_READ = "import pickle, sys; sys.stdout.buffer.write(pickle.dumps(list(pickle.load(sys.stdin.buffer).questions())))"
_MOST = 40


class BenchmarkAdapterTests:
    """Subclass this in a test file, with a fixture `adapter` that returns yours; pytest runs the rest.

    What costs time is tried on forty of the questions.
    """

    @pytest.fixture
    def adapter(self) -> BenchmarkAdapter:
        """The adapter under test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `adapter` that returns the one under test")

    @pytest.fixture
    def questions(self, adapter: BenchmarkAdapter) -> list[Question]:
        """Some of its questions, from its beginning to its end."""
        found = list(adapter.questions())
        assert found, "questions() gave none"
        return found[:: max(1, len(found) // _MOST)]

    def test_it_has_a_name_and_opens_or_says_what_it_needs(self, adapter: BenchmarkAdapter) -> None:
        kind = type(adapter)
        assert_usable(kind)
        unknown = set(adapter.scorings) - set(SCORINGS)
        assert adapter.scorings, "scorings names no way in which answers are scored"
        assert not unknown, f"scorings names {unknown}; there are {', '.join(SCORINGS)}"
        try:
            opened = kind.open(BenchmarkOptions())
        except ActframeError:
            return
        except Exception as error:
            pytest.fail(
                f"open() without options raised {type(error).__name__} ({error}); say what it needs by a BenchmarkError"
            )
        assert isinstance(opened, kind), f"open() gave {opened!r}"

    def test_an_option_that_it_does_not_have_is_refused(self, adapter: BenchmarkAdapter) -> None:
        options = BenchmarkOptions(data="/nowhere/at/all.jsonl", split="no such split", revision="no such revision")
        try:
            list(type(adapter).open(options).questions())
        except ActframeError:
            return
        except Exception as error:
            pytest.fail(f"options that make no sense raised {type(error).__name__} ({error}), not a BenchmarkError")
        pytest.fail(
            "it took a file, a split and a revision that do not exist, and asked its questions as if it had them"
        )

    def test_ids_are_texts_and_unique(self, adapter: BenchmarkAdapter) -> None:
        ids = [question.id for question in adapter.questions()]
        wrong = [each for each in ids if not isinstance(each, str) or not each]
        assert not wrong, f"ids are texts that are not empty; {len(wrong)} are not, such as {wrong[0]!r}"
        twice = [each for each, count in Counter(ids).items() if count > 1]
        assert not twice, f"{len(twice)} ids are there more than once, such as {twice[0]!r}: answers are joined by them"

    def test_questions_are_the_same_at_every_call(self, adapter: BenchmarkAdapter) -> None:
        first = list(adapter.questions())
        assert first == list(adapter.questions()), "questions() gave others, or in another order, the second time"

    def test_two_who_ask_at_once_do_not_disturb_each_other(self, adapter: BenchmarkAdapter) -> None:
        for one, other in itertools.zip_longest(adapter.questions(), adapter.questions()):
            assert one == other, f"of two iterations side by side one gives {one}, the other {other}"

    def test_it_can_be_pickled_and_gives_the_same_questions_again(self, adapter: BenchmarkAdapter) -> None:
        again = pickle.loads(_pickled(adapter))
        assert list(again.questions()) == list(adapter.questions()), "a pickled copy gives other questions"
        assert again.identity() == adapter.identity(), "a pickled copy has another identity()"

    def test_questions_are_the_same_in_another_process(self, adapter: BenchmarkAdapter) -> None:
        places = os.pathsep.join(place for place in sys.path if place)
        # Another seed of hashes: what depends on the order of a set is found out.
        environment = {**os.environ, "PYTHONPATH": places, "PYTHONHASHSEED": "4711"}
        done = subprocess.run(
            [sys.executable, "-c", _READ], input=_pickled(adapter), env=environment, capture_output=True, check=False
        )
        assert not done.returncode, f"another process cannot read it: {done.stderr.decode(errors='replace')[-2000:]}"
        for one, other in itertools.zip_longest(adapter.questions(), pickle.loads(done.stdout)):
            assert one == other, f"in another process it asks {other}, where it asks {one} in this one"

    def test_labels_are_safe_for_json(self, adapter: BenchmarkAdapter) -> None:
        _assert_json(adapter.identity(), "identity()")
        for question in adapter.questions():
            assert isinstance(question, Question), f"questions() gave {question!r}, which is not a Question"
            who = f"question {question.id!r}"
            for name in ("text", "answer"):
                value = getattr(question, name)
                assert isinstance(value, str), f"{name} of {who} is {value!r}; it is a text"
            for name in ("subject", "solution"):
                value = getattr(question, name)
                assert value is None or isinstance(value, str), f"{name} of {who} is {value!r}; it is a text or None"
            texts = isinstance(question.choices, tuple) and all(isinstance(each, str) for each in question.choices)
            assert texts, f"choices of {who} are {question.choices!r}; they are a tuple of texts"
            _assert_json(dict(question.metadata), f"metadata of {who}")

    def test_a_conversation_ends_with_the_question(self, adapter: BenchmarkAdapter, questions: list[Question]) -> None:
        _skip_unless_generated(adapter)
        for question, chat, style in itertools.product(questions, (True, False), PROMPT_STYLES):
            prompting = Prompting(style=style, system="Be brief.", chat=chat)
            messages = list(adapter.conversation(question, prompting))
            who = f"conversation({question.id!r}, {prompting})"
            assert messages, f"{who} is empty"
            assert all(isinstance(each, Message) for each in messages), f"{who} gave {messages!r}; it gives Messages"
            last = messages[-1]
            assert last.role == "user", f"{who} ends with a message of {last.role!r}, not of 'user'"
            assert last.content.strip(), f"{who} ends with an empty message"
            assert chat or len(messages) == 1, f"{who} has {len(messages)} messages; without a chat it is a single text"

    def test_examples_are_solved_and_never_the_question_itself(
        self, adapter: BenchmarkAdapter, questions: list[Question]
    ) -> None:
        for question in questions:
            assert not list(adapter.examples(question, 0)), f"examples({question.id!r}, 0) gave some"
            try:
                examples = list(adapter.examples(question, 1))
            except BenchmarkError:
                continue
            assert len(examples) == 1, f"examples({question.id!r}, 1) gave {len(examples)}; too few is a BenchmarkError"
            assert examples[0].id != question.id, f"question {question.id!r} is shown as its own example, solved"
            assert examples[0].answer, f"example {examples[0].id!r} has no answer to show"

    def test_more_examples_than_there_are_is_a_benchmark_error(
        self, adapter: BenchmarkAdapter, questions: list[Question]
    ) -> None:
        try:
            shown = list(adapter.examples(questions[0], 10**6))
        except BenchmarkError:
            return
        pytest.fail(f"a million examples were asked for, and it showed the {len(shown)} it has; raise a BenchmarkError")

    def test_extraction_never_raises(self, adapter: BenchmarkAdapter, questions: list[Question]) -> None:
        _skip_unless_generated(adapter)
        for question, response in itertools.product(questions[:5], [*RESPONSES, *questions[-1].choices]):
            what = f"of the response {_short(response)} to {question.id!r}"
            try:
                answer = adapter.extract_answer(response, question)
            except Exception as error:
                pytest.fail(f"extract_answer {what} raised {type(error).__name__}: {error}; it gives None instead")
            assert answer is None or isinstance(answer, str), f"extract_answer {what} gave {answer!r}; text or None"

    def test_judging_never_raises_and_says_what_json_can_hold(
        self, adapter: BenchmarkAdapter, questions: list[Question]
    ) -> None:
        _skip_unless_generated(adapter)
        for question, response in itertools.product(questions[:5], RESPONSES):
            what = f"judge of the response {_short(response)} to {question.id!r}"
            try:
                verdict = adapter.judge(response, question)
            except Exception as error:
                pytest.fail(f"{what} raised {type(error).__name__}: {error}")
            _assert_verdict(verdict, what)

    def test_no_answer_is_not_a_right_answer(self, adapter: BenchmarkAdapter, questions: list[Question]) -> None:
        for question in questions:
            assert not adapter.score(None, question), f"score(None) says that {question.id!r} was answered right"

    @pytest.mark.parametrize("style", PROMPT_STYLES)
    def test_the_reference_is_a_right_answer(
        self, adapter: BenchmarkAdapter, questions: list[Question], style: PromptStyle
    ) -> None:
        _skip_unless_generated(adapter)
        for question in questions:
            if not question.answer:
                continue
            reference = adapter.reference(question, style)
            verdict = adapter.judge(reference, question)
            assert verdict.correct, (
                f"the reference of {question.id!r} in style {style!r} is {_short(reference)}, of which "
                f"extract_answer reads {verdict.answer!r}; the question expects {question.answer!r}"
            )

    def test_choices_are_ranked_and_the_likeliest_is_judged(
        self, adapter: BenchmarkAdapter, questions: list[Question]
    ) -> None:
        if "loglikelihood" not in adapter.scorings or not any(question.choices for question in questions):
            pytest.skip("its scorings do not name 'loglikelihood', or its questions have no choices")
        for question in filter(lambda each: each.choices, questions):
            completions = list(adapter.ranking(question, Prompting()))
            assert len(completions) >= 2, f"ranking({question.id!r}) gave {len(completions)} completions"
            empty = [each for each in completions if not each.continuation]
            assert not empty, f"ranking({question.id!r}) gave a completion of nothing, which has no likelihood"
            for index in range(len(completions)):
                likelihoods = [
                    Likelihood(-1.0 if each == index else -9.0, False, 1) for each in range(len(completions))
                ]
                _assert_verdict(adapter.judge_choices(likelihoods, question), f"judge_choices of {question.id!r}")

    def test_lengths_and_stops_are_what_generation_takes(
        self, adapter: BenchmarkAdapter, questions: list[Question]
    ) -> None:
        for style in PROMPT_STYLES:
            length = adapter.max_new_tokens(style)
            assert type(length) is int, f"max_new_tokens({style!r}) is {length!r}; it is a whole number"
            assert length > 0, f"max_new_tokens({style!r}) is {length}"
        for question in questions:
            stops = adapter.stops(question)
            wrong = isinstance(stops, str) or not all(isinstance(each, str) and each for each in stops)
            assert not wrong, f"stops({question.id!r}) is {stops!r}; it is a list of texts that are not empty"


def _skip_unless_generated(adapter: BenchmarkAdapter) -> None:
    if "generate" not in adapter.scorings:
        pytest.skip("its scorings do not name 'generate', so that it never sees a response")


def _pickled(adapter: BenchmarkAdapter) -> bytes:
    try:
        return pickle.dumps(adapter)
    except Exception as error:
        pytest.fail(f"it cannot be pickled, so that no other process can ask its questions: {error}")


def _assert_json(value: Any, what: str) -> None:
    try:
        again = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        pytest.fail(f"{what} is not JSON-safe ({error}): {value!r}")
    assert again == value, f"{what} comes back from JSON as {again!r}, and was {value!r}"


def _assert_verdict(verdict: Any, what: str) -> None:
    assert isinstance(verdict, Verdict), f"{what} gave {verdict!r}, which is not a Verdict"
    assert verdict.answer is None or isinstance(verdict.answer, str), f"{what}: its answer is {verdict.answer!r}"
    assert isinstance(verdict.correct, bool), f"{what}: correct is {verdict.correct!r}, which is not True or False"
    wrong = {name: value for name, value in verdict.metrics.items() if not isinstance(value, int | float)}
    assert not wrong, f"{what}: metrics are numbers, and these are not: {wrong}"


def _short(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")
