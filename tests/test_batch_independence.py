"""The answer of each question at temperature 0 in float32 is the same in a batch and alone, in any order."""

import pytest

from actframe import BenchmarkAdapter, Selection
from actframe.benchmarks.arithmetic import Arithmetic
from actframe.benchmarks.general import General
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import load_model
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun, RunSettings

EACH = 18


class Both(BenchmarkAdapter):
    """Questions of both bundled benchmarks, put and read by their own."""

    name = "both"

    def __init__(self, each, backwards=False):
        self._each, self._backwards = each, backwards

    def questions(self):
        found = [question for own in (General(), Arithmetic()) for question in list(own.questions())[: self._each]]
        return found[::-1] if self._backwards else found

    def conversation(self, question, prompting):
        return (General() if question.choices else Arithmetic()).conversation(question, prompting)

    def extract_answer(self, response, question):
        return (General() if question.choices else Arithmetic()).extract_answer(response, question)


def answers(folder, each, tokens, batch_size, backwards=False, capture=None):
    loaded = load_model("smollm2", device="cpu", dtype="float32")
    settings = RunSettings(generation=GenerationSettings(tokens, batch_size=batch_size), capture=capture)
    result = BenchmarkRun(loaded, Both(each, backwards), folder, settings).execute()
    keys = ("response", "extracted_answer", "correct", "truncated", "output_tokens")
    return {answer["question_id"]: [answer[key] for key in keys] for answer in result.answers}


def test_a_few_answers_are_the_same_batched_and_alone(tmp_path):
    together = answers(tmp_path / "together", 2, 6, 4)
    assert together == answers(tmp_path / "alone", 2, 6, 1)


@pytest.mark.slow
def test_answers_are_the_same_batched_alone_backwards_and_recorded(tmp_path):
    alone = answers(tmp_path / "alone", EACH, 48, 1)
    assert len(alone) == 2 * EACH
    assert answers(tmp_path / "together", EACH, 48, 16) == alone
    assert answers(tmp_path / "backwards", EACH, 48, 5, backwards=True) == alone
    capture = CaptureSettings(Selection([-1], positions="last_prompt"))
    assert answers(tmp_path / "recorded", EACH, 48, 12, capture=capture) == alone
