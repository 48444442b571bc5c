"""The plan of a run: every answer once, and the same batches whatever is done already."""

import pytest

from actframe import BenchmarkAdapter, Question
from actframe.errors import BenchmarkError, PromptError
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel
from actframe.runs.plan import RunPlan
from actframe.runs.settings import RunSettings

CUE = "\nAnswer:"


class Lengths(BenchmarkAdapter):
    """Questions of the given lengths."""

    name = "lengths"

    def __init__(self, *lengths):
        self._lengths = lengths

    def questions(self):
        return [Question(f"q{number}", "x" * length, "A") for number, length in enumerate(self._lengths)]

    def prompt(self, question):
        return question.text

    def extract_answer(self, response, question):
        return None


@pytest.fixture
def plan(tiny_llama):
    def make(*lengths, num_trials=1, limit=None, **generation):
        generation = {"max_new_tokens": 4, "batch_size": 2, "temperature": 1.0, "seed": 7, **generation}
        settings = RunSettings(num_trials, limit, GenerationSettings(**generation))
        return RunPlan(LoadedModel("tiny", *tiny_llama), Lengths(*lengths), settings)

    return make


def keys_of(batches):
    return [[job.key for job in batch] for batch in batches]


def test_every_question_is_asked_in_every_trial_and_trials_come_one_after_another(plan):
    jobs = plan(3, 1, 2, num_trials=2).jobs
    assert [job.key for job in jobs] == [(f"q{number}", trial) for trial in (0, 1) for number in (0, 1, 2)]
    assert [job.prompt for job in jobs[:3]] == [f"{text}{CUE}" for text in ("xxx", "x", "xx")]
    assert [len(job.input_ids) for job in jobs[:3]] == [3 + len(CUE), 1 + len(CUE), 2 + len(CUE)]


def test_batches_hold_each_job_once_the_longest_first(plan):
    made = plan(3, 1, 2, 5, 4)
    assert keys_of(made.batches) == [[("q3", 0), ("q4", 0)], [("q0", 0), ("q2", 0)], [("q1", 0)]]


def test_each_answer_has_a_seed_of_its_own_which_batches_do_not_change(plan):
    made, other = plan(3, 1, 2, num_trials=2), plan(3, 1, 2, num_trials=2, batch_size=5)
    seeds = {job.key: job.request.seed for job in made.jobs}
    assert len(set(seeds.values())) == 6
    assert seeds == {job.key: job.request.seed for batch in other.batches for job in batch}
    assert not {*seeds.values()} & {job.request.seed for job in plan(3, 1, 2, num_trials=2, seed=8).jobs}


def test_batches_hold_so_many_tokens_at_most_with_those_to_come(plan):
    made = plan(30, 4, 4, 4, 4, batch_size=4, batch_tokens=3 * (4 + len(CUE) + 4))
    assert keys_of(made.batches) == [[("q0", 0)], [("q1", 0), ("q2", 0), ("q3", 0)], [("q4", 0)]]


def test_a_batch_of_which_one_answer_is_missing_is_computed_whole(plan):
    made = plan(3, 1, 2, 5, 4)
    assert list(made.remaining(set())) == made.batches
    (left,) = made.remaining({("q3", 0), ("q4", 0), ("q2", 0), ("q1", 0)})
    assert left is made.batches[1]
    assert list(made.remaining({job.key for job in made.jobs})) == []


def test_answers_to_other_questions_change_nothing(plan):
    made = plan(3, 1)
    assert list(made.remaining({("elsewhere", 0), ("q0", 5)})) == made.batches


def test_the_limit_takes_the_first_questions(plan):
    assert [question.id for question in plan(3, 1, 2, limit=2).questions] == ["q0", "q1"]


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ((), BenchmarkError, "'lengths' has no questions"),
        ((1, 0), BenchmarkError, "question 'q1' of 'lengths' has no text"),
        ((600, 500), PromptError, "every question of 'lengths' is too long for 'tiny': the shortest .* 508 tokens"),
    ],
)
def test_questions_that_cannot_be_asked_are_named(plan, lengths, error, message):
    with pytest.raises(error, match=message):
        plan(*lengths)


def test_questions_that_do_not_fit_the_context_are_left_out_and_named(plan):
    made = plan(1, 500, 2, 116, 117, num_trials=2)
    assert made.too_long == ["q1", "q4"]
    assert [question.id for question in made.questions] == ["q0", "q2", "q3"]
    assert [job.key for job in made.jobs[3:]] == [("q0", 1), ("q2", 1), ("q3", 1)]
