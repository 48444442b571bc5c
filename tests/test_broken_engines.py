"""The suite of engines finds each way in which an engine can break its contract, and says which it is."""

import warnings
from dataclasses import dataclass, replace

import pytest
from mutants import Mutant, assert_found, checks_of

from actframe import Outcome, engine_option
from actframe.runs.engines import LocalEngine
from actframe.testing import ExecutionEngineTests


@dataclass(frozen=True)
class Here(LocalEngine):
    """Keeps its contract, as it is the built-in one; the others break one promise each."""

    name = "their_engine"


@dataclass(frozen=True)
class Unexplained(Here):
    workers: int = engine_option(2, "")


class LosesATask(Here):
    def run(self, work, tasks):
        next(tasks, None)
        yield from super().run(work, tasks)


class LosesTexts(Here):
    def run(self, work, tasks):
        yield from super().run(work, (task for task in tasks if not hasattr(task.items[0], "text")))


class KeepsWarningsToItself(Here):
    def run(self, work, tasks):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from super().run(work, tasks)


class KeepsFailuresToItself(Here):
    def run(self, work, tasks):
        for outcome in super().run(work, tasks):
            yield replace(outcome, failures=())


class SwallowsErrors(Here):
    def run(self, work, tasks):
        try:
            yield from super().run(work, tasks)
        except RuntimeError:
            return


class WillNotEnd(Here):
    def run(self, work, tasks):
        try:
            yield from super().run(work, tasks)
        except GeneratorExit:
            yield Outcome(None)


MUTANTS = [
    Mutant(
        Unexplained,
        "test_it_is_a_dataclass_whose_options_the_command_line_can_offer",
        "workers says nothing about itself; use engine_option",
    ),
    Mutant(LosesATask, "test_a_run_has_the_keys_and_answers_that_the_local_engine_gives", "missing in the store"),
    Mutant(LosesTexts, "test_texts_get_the_records_that_the_local_engine_makes", "of 30 texts, 0 were"),
    Mutant(KeepsWarningsToItself, "test_an_adapter_that_fails_on_one_response_does_not_stop_the_run", "DID NOT WARN"),
    Mutant(
        KeepsFailuresToItself, "test_a_question_on_which_the_model_fails_does_not_stop_the_run", "names no question"
    ),
    Mutant(SwallowsErrors, "test_what_fails_for_every_question_ends_the_run_with_that_error", "DID NOT RAISE"),
    Mutant(
        WillNotEnd, "test_a_run_that_is_interrupted_keeps_what_it_has_and_goes_on", "generator ignored GeneratorExit"
    ),
]


def test_there_is_a_broken_engine_for_every_check():
    assert {mutant.check for mutant in MUTANTS} == checks_of(ExecutionEngineTests)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_engine_is_found_by_the_check_for_it(mutant):
    assert_found(mutant)
