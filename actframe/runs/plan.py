"""RunPlan: every answer that a run gives, in which batch it is computed, and with which seed.

A plan depends on its questions and settings alone, never on what is done already. So a run that goes on computes each
batch as it would have been computed the first time: with the same neighbours and the same padding, which decide the
last bits of what a model computes. What an answer draws depends on the answer alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Message, Prompting, Scoring
from actframe.errors import PromptError, SettingsError
from actframe.runs.batches import plan_batches
from actframe.runs.choices import Ranking, make_ranking
from actframe.runs.drawing import answer_seed
from actframe.runs.generation import Request
from actframe.runs.grading import make_conversation, stops_of, take_questions
from actframe.runs.models import LoadedModel
from actframe.runs.prompts import encode_prompts, exceeds_context
from actframe.runs.settings import RunSettings

__all__ = ["Batch", "Job", "Key", "RunPlan"]

Key = tuple[str, int] | tuple[str, int, int]
"""Which answer it is: the id of the question and the number of the trial; of a choice's own record its number, too."""


@dataclass(frozen=True)
class Job:
    """One answer to give.

    Attributes:
        question: what is asked.
        trial: for which time, from 0.
        prompt: what the benchmark makes of the question: the last message that the model is given.
        request: what the model gets, and how its response is drawn and ends.
        ranking: of its choices, where these are ranked; then the request is what they have in common.
        records_choices: each of these gets a record of its own.
    """

    question: Question
    trial: int
    prompt: str
    request: Request
    ranking: Ranking | None = None
    records_choices: bool = False

    @property
    def input_ids(self) -> list[int]:
        """The tokens that the model gets."""
        return self.request.input_ids

    @property
    def tokens(self) -> int:
        """How many tokens the model gets, before those that it adds: with the longest choice, where they are ranked."""
        return self.ranking.longest if self.ranking is not None else len(self.input_ids)

    @property
    def choice_ids(self) -> list[list[int]]:
        """The whole sequences that are compared, where choices are ranked."""
        return [choice.ids for choice in self.ranking.choices] if self.ranking is not None else []

    @property
    def key(self) -> Key:
        """What the answer is found by."""
        return self.question.id, self.trial

    @property
    def keys(self) -> list[Key]:
        """What all its records are found by, in the order in which they are written: the answer comes last."""
        count = len(self.choice_ids) if self.records_choices else 0
        return [*((*self.key, number) for number in range(count)), self.key]

    def is_done(self, done: Container[Key]) -> bool:
        """Whether every record is there."""
        return all(key in done for key in self.keys)

    def lengths(self, output_tokens: int) -> list[tuple[int, int]]:
        """The tokens of prompt and response of each record, if the response has so many."""
        found = [(len(self.input_ids), output_tokens)]
        if self.ranking is not None and self.records_choices:
            # All of a choice is computed: one token more than where the last one is only written.
            split = map(self.ranking.split, self.ranking.choices)
            found += [(len(prompt), len(rest) + 1) for prompt, rest in split]
        return found


Batch = list[Job]
"""Answers that are computed together, the longest prompt first."""


class RunPlan:
    """The answers of one run.

    Attributes:
        questions: those that are asked, in the order of the benchmark.
        too_long: the ids of those that are not, because they do not fit the context of the model.
        prompting: how they are put; whether in a chat template is decided.
        jobs: every answer: trial by trial, so that a run that ends early has whole ones, in the order of the questions.
        batches: the same, as they are computed.

    Raises:
        BenchmarkError: the adapter has no questions, repeats an id, or fails to make a prompt.
        PromptError: a question is empty, or all are too long for the model; the message has its id.
        ModelError: the model has no tokenizer or does not generate.
    """

    def __init__(self, model: LoadedModel, benchmark: BenchmarkAdapter, settings: RunSettings) -> None:
        _check_scoring(benchmark, settings.scoring)
        generation, ranks = settings.generation, settings.scoring == "loglikelihood"
        chat = settings.prompting.chat
        # As with lm-evaluation-harness, choices are ranked without a template where nobody asks for one.
        self.prompting = replace(settings.prompting, chat=(model.is_chat and not ranks) if chat is None else chat)
        questions = take_questions(benchmark, settings.limit, settings.subjects)
        model.require_generation()
        once = (_ranking_jobs if ranks else _jobs)(model, benchmark, questions, self.prompting)
        # The last token of a choice needs a place where it is recorded: else it is only predicted.
        new = int(settings.record_choices) if ranks else generation.max_new_tokens
        self.too_long = [job.question.id for job in once if exceeds_context(model, job.tokens, new)]
        left_out = set(self.too_long)
        asked = [job for job in once if job.question.id not in left_out]
        if not asked:
            raise _all_too_long(model, benchmark, min(job.tokens for job in once), new)
        self.questions = [job.question for job in asked]
        self.jobs = [
            replace(
                job,
                trial=trial,
                request=replace(job.request, seed=_seed(settings, job, trial)),
                records_choices=settings.record_choices,
            )
            for trial in range(settings.num_trials)
            for job in asked
        ]
        rows = plan_batches([job.tokens for job in self.jobs], generation)
        self.batches: list[Batch] = [[self.jobs[row] for row in batch] for batch in rows]

    def remaining(self, done: Container[Key]) -> Iterator[Batch]:
        """The batches of which a record is missing, each whole: only so does it give the same answers again."""
        return (batch for batch in self.batches if not all(job.is_done(done) for job in batch))

    @property
    def recorded_choices(self) -> int:
        """How many choices get a record of their own."""
        return sum(len(job.keys) - 1 for job in self.jobs)


def _check_scoring(benchmark: BenchmarkAdapter, scoring: Scoring) -> None:
    if scoring not in benchmark.scorings:
        raise SettingsError(
            f"benchmark {benchmark.name!r} is not scored by {scoring!r}; it is by {', '.join(benchmark.scorings)}"
        )


def _seed(settings: RunSettings, job: Job, trial: int) -> int:
    return answer_seed(settings.generation.seed, job.question.id, trial)


def _jobs(
    model: LoadedModel, benchmark: BenchmarkAdapter, questions: list[Question], prompting: Prompting
) -> list[Job]:
    """What is to be answered by generating, each question once."""
    conversations = [make_conversation(benchmark, question, prompting) for question in questions]
    encoded = _encode(model, benchmark, questions, conversations, bool(prompting.chat))
    return [
        Job(question, 0, messages[-1].content, Request(ids, stops=stops_of(benchmark, question)))
        for question, messages, ids in zip(questions, conversations, encoded, strict=True)
    ]


def _ranking_jobs(
    model: LoadedModel, benchmark: BenchmarkAdapter, questions: list[Question], prompting: Prompting
) -> list[Job]:
    """What is to be answered by ranking choices, each question once."""
    rankings = [make_ranking(model, benchmark, question, prompting) for question in questions]
    return [
        Job(question, 0, ranking.prompt, Request(ranking.prompt_ids), ranking)
        for question, ranking in zip(questions, rankings, strict=True)
    ]


def _encode(
    model: LoadedModel,
    benchmark: BenchmarkAdapter,
    questions: list[Question],
    conversations: list[list[Message]],
    chat: bool,
) -> list[list[int]]:
    try:
        return encode_prompts(model, conversations, chat)
    except PromptError:
        # Once more one by one, to say which question it is.
        for question, messages in zip(questions, conversations, strict=True):
            try:
                encode_prompts(model, [messages], chat)
            except PromptError as error:
                raise PromptError(f"question {question.id!r} of {benchmark.name!r}: {error}") from error
        raise


def _all_too_long(model: LoadedModel, benchmark: BenchmarkAdapter, shortest: int, max_new_tokens: int) -> PromptError:
    new = f" with {max_new_tokens} new ones" if max_new_tokens else ""
    lower = "lower max_new_tokens, " if max_new_tokens else ""
    return PromptError(
        f"every question of {benchmark.name!r} is too long for {model.name!r}: the shortest prompt has {shortest} "
        f"tokens, which{new} do not fit its context of {model.context_length}; {lower}show fewer examples, or use a "
        f"model with a longer context"
    )
