"""RunPlan: every answer that a run gives, in which batch it is computed, and with which seed.

A plan depends on its questions and settings alone, never on what is done already. So a run that goes on computes each
batch as it would have been computed the first time: with the same neighbours, the same padding, the same draws.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Message
from actframe.errors import PromptError
from actframe.runs.generation import plan_batches, prepare_prompts
from actframe.runs.grading import make_conversation, take_questions
from actframe.runs.models import LoadedModel
from actframe.runs.settings import RunSettings

__all__ = ["Job", "Key", "PlannedBatch", "RunPlan"]

Key = tuple[str, int]
"""Which answer it is: the id of the question and the number of the trial."""


@dataclass(frozen=True)
class Job:
    """One answer to give.

    Attributes:
        question: what is asked.
        trial: for which time, from 0.
        prompt: what the benchmark makes of the question: the last message that the model is given.
        input_ids: the tokens that the model gets.
    """

    question: Question
    trial: int
    prompt: str
    input_ids: list[int]

    @property
    def key(self) -> Key:
        """What the answer is found by."""
        return self.question.id, self.trial


@dataclass(frozen=True)
class PlannedBatch:
    """Answers that are computed together.

    Attributes:
        seed: what the batch draws with.
        jobs: the longest prompt first.
    """

    seed: int
    jobs: list[Job]


class RunPlan:
    """The answers of one run.

    Attributes:
        questions: in the order of the benchmark.
        prompting: how they are put; whether in a chat template is decided.
        jobs: every answer: trial by trial, so that a run that ends early has whole ones, in the order of the questions.
        batches: the same, as they are computed; the n-th draws with the seed of the settings plus n.

    Raises:
        BenchmarkError: the adapter has no questions, repeats an id, or fails to make a prompt.
        PromptError: a question is empty or too long for the model; the message has its id.
        ModelError: the model has no tokenizer or does not generate.
    """

    def __init__(self, model: LoadedModel, benchmark: BenchmarkAdapter, settings: RunSettings) -> None:
        generation = settings.generation
        chat = model.is_chat if settings.prompting.chat is None else settings.prompting.chat
        self.prompting = replace(settings.prompting, chat=chat)
        self.questions = take_questions(benchmark, settings.limit)
        conversations = [make_conversation(benchmark, question, self.prompting) for question in self.questions]
        encoded = _encode(model, benchmark, self.questions, conversations, settings)
        prompts = [messages[-1].content for messages in conversations]
        asked = list(zip(self.questions, prompts, encoded, strict=True))
        self.jobs = [
            Job(question, trial, prompt, ids) for trial in range(settings.num_trials) for question, prompt, ids in asked
        ]
        rows = plan_batches([len(job.input_ids) for job in self.jobs], generation.batch_size)
        self.batches = [
            PlannedBatch(generation.seed + number, [self.jobs[row] for row in batch])
            for number, batch in enumerate(rows)
        ]

    def remaining(self, done: Container[Key]) -> Iterator[PlannedBatch]:
        """The batches of which an answer is missing, each whole: only so does it give the same answers again."""
        return (batch for batch in self.batches if any(job.key not in done for job in batch.jobs))


def _encode(
    model: LoadedModel,
    benchmark: BenchmarkAdapter,
    questions: list[Question],
    conversations: list[list[Message]],
    settings: RunSettings,
) -> list[list[int]]:
    generation, chat = settings.generation, settings.prompting.chat
    try:
        return prepare_prompts(model, conversations, generation, chat)
    except PromptError:
        # Once more one by one, to say which question it is.
        for question, messages in zip(questions, conversations, strict=True):
            try:
                prepare_prompts(model, [messages], generation, chat)
            except PromptError as error:
                raise PromptError(f"question {question.id!r} of {benchmark.name!r}: {error}") from error
        raise
