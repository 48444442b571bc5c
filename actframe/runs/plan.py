"""RunPlan: every answer that a run gives, in which batch it is computed, and with which seed.

A plan depends on its questions and settings alone, never on what is done already. So a run that goes on computes each
batch as it would have been computed the first time: with the same neighbours and the same padding, which decide the
last bits of what a model computes. What an answer draws depends on the answer alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

from actframe.benchmarks.base import BenchmarkAdapter, Question
from actframe.benchmarks.prompting import Message
from actframe.errors import PromptError
from actframe.runs.batches import plan_batches
from actframe.runs.drawing import answer_seed
from actframe.runs.generation import Request
from actframe.runs.grading import make_conversation, stops_of, take_questions
from actframe.runs.models import LoadedModel
from actframe.runs.prompts import encode_prompts, exceeds_context
from actframe.runs.settings import RunSettings

__all__ = ["Batch", "Job", "Key", "RunPlan"]

Key = tuple[str, int]
"""Which answer it is: the id of the question and the number of the trial."""


@dataclass(frozen=True)
class Job:
    """One answer to give.

    Attributes:
        question: what is asked.
        trial: for which time, from 0.
        prompt: what the benchmark makes of the question: the last message that the model is given.
        request: what the model gets, and how its response is drawn and ends.
    """

    question: Question
    trial: int
    prompt: str
    request: Request

    @property
    def input_ids(self) -> list[int]:
        """The tokens that the model gets."""
        return self.request.input_ids

    @property
    def key(self) -> Key:
        """What the answer is found by."""
        return self.question.id, self.trial


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
        generation = settings.generation
        chat = model.is_chat if settings.prompting.chat is None else settings.prompting.chat
        self.prompting = replace(settings.prompting, chat=chat)
        questions = take_questions(benchmark, settings.limit, settings.subjects)
        model.require_generation()
        conversations = [make_conversation(benchmark, question, self.prompting) for question in questions]
        encoded = _encode(model, benchmark, questions, conversations, chat)
        asked = []
        self.too_long: list[str] = []
        for question, messages, ids in zip(questions, conversations, encoded, strict=True):
            if exceeds_context(model, len(ids), generation.max_new_tokens):
                self.too_long.append(question.id)
            else:
                asked.append((question, messages[-1].content, ids, stops_of(benchmark, question)))
        if not asked:
            raise _all_too_long(model, benchmark, encoded, generation.max_new_tokens)
        self.questions = [question for question, *_ in asked]
        self.jobs = [
            Job(question, trial, prompt, Request(ids, answer_seed(generation.seed, question.id, trial), stops))
            for trial in range(settings.num_trials)
            for question, prompt, ids, stops in asked
        ]
        rows = plan_batches([len(job.input_ids) for job in self.jobs], generation)
        self.batches: list[Batch] = [[self.jobs[row] for row in batch] for batch in rows]

    def remaining(self, done: Container[Key]) -> Iterator[Batch]:
        """The batches of which an answer is missing, each whole: only so does it give the same answers again."""
        return (batch for batch in self.batches if any(job.key not in done for job in batch))


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


def _all_too_long(
    model: LoadedModel, benchmark: BenchmarkAdapter, encoded: list[list[int]], max_new_tokens: int
) -> PromptError:
    return PromptError(
        f"every question of {benchmark.name!r} is too long for {model.name!r}: the shortest prompt has "
        f"{min(map(len, encoded))} tokens, which with {max_new_tokens} new ones do not fit its context of "
        f"{model.context_length}; lower max_new_tokens, show fewer examples, or use a model with a longer context"
    )
