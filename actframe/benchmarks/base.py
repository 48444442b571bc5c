"""BenchmarkAdapter and Question, the contract of a benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from actframe.benchmarks.prompting import SCORINGS, Completion, Message, Prompting, PromptStyle, Scoring
from actframe.errors import BenchmarkError
from actframe.extension import Extension

__all__ = ["LETTERS", "BenchmarkAdapter", "BenchmarkOptions", "Likelihood", "Question", "Verdict"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

RESPONSE_TOKENS: Mapping[PromptStyle, int] = {"direct": 128, "reason": 512}


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: unique within the benchmark and the same in every run: answers and activations are joined by it.
        text: the question alone, without choices or instructions.
        answer: the expected answer in the form that `extract_answer` returns: a letter, a number. Empty where nobody
            knows it; then the answer is kept and not graded.
        choices: the options of a multiple-choice question, in the order of their letters.
        subject: what results are broken down by.
        solution: the way to the answer in words, which few-shot examples show where the model is to reason first.
        metadata: anything else, JSON-safe.
    """

    id: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()
    subject: str | None = None
    solution: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def letters(self) -> str:
        """The letters of the choices: `"ABCD"` for four."""
        return LETTERS[: len(self.choices)]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a user may say of a benchmark beside its name; None where nothing was said.

    Attributes:
        task: what stands after a colon: `arc_easy` in `lm_eval:arc_easy`.
        data: a file or folder to take the questions from, in the published schema.
        split: which part of the data: `test`, `validation`.
        revision: of the data set on the hub.
        seed: what choices are shuffled with.
    """

    task: str | None = None
    data: str | None = None
    split: str | None = None
    revision: str | None = None
    seed: int | None = None

    def given(self) -> dict[str, Any]:
        """Those that were said."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}


@dataclass(frozen=True)
class Likelihood:
    """What a model thinks of one choice.

    Attributes:
        loglikelihood: the natural logarithm of the probability of the continuation, given its context.
        greedy: each token of it is the likeliest one where it stands.
        tokens: how many tokens it has.
    """

    loglikelihood: float
    greedy: bool
    tokens: int


@dataclass(frozen=True)
class Verdict:
    """What a benchmark says about one response.

    Attributes:
        answer: the answer in its canonical form; None where there is none.
        correct: whether it is right.
        metrics: other figures of this answer, which results average under these names.
    """

    answer: str | None
    correct: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


class BenchmarkAdapter(Extension, ABC):
    """A benchmark: its questions, how they are put to a model, and how answers are read and scored.

    Subclass it with `questions` and `extract_answer`; everything else has a default. Adapters know nothing of models
    or activations, and must be picklable.
    """

    kind: ClassVar[str] = "benchmark"
    contract_version: ClassVar[int] = 1

    scorings: Sequence[Scoring] = SCORINGS
    """The ways in which its answers can be scored; the first one is the default."""

    @classmethod
    def open(cls, options: BenchmarkOptions) -> Self:
        """The adapter that the command line gets for its flags: by default `cls()`, which takes none.

        Raises:
            BenchmarkError: an option was given that this benchmark does not have.
        """
        if given := options.given():
            raise BenchmarkError(f"benchmark {cls.name!r} has no option {', '.join(map(repr, given))}; leave it out")
        return cls()

    @abstractmethod
    def questions(self) -> Iterable[Question]:
        """All questions, in the same order at every call."""

    def identity(self) -> Mapping[str, Any]:
        """What tells this benchmark from others of its name, JSON-safe: its data, split, revision. Kept with a run."""
        return {}

    def examples(self, question: Question, count: int) -> Sequence[Question]:
        """That many solved questions to show before this one, never itself: by default there are none.

        Raises:
            BenchmarkError: there are not so many; the message says how many there are.
        """
        if count:
            raise BenchmarkError(f"benchmark {self.name!r} has no examples to show: leave num_fewshot at 0")
        return ()

    def prompt(self, question: Question) -> str:
        """The question as it is put to the model: by default its text and its lettered choices."""
        lines = [f"{letter}. {choice}" for letter, choice in zip(question.letters, question.choices, strict=True)]
        return "\n".join([question.text, *lines])

    def instruction(self, question: Question, style: PromptStyle) -> str:
        """What the model is told to do with the question, after it; may be empty."""
        if style == "reason":
            what = "letter of the correct option" if question.choices else "answer"
            return f'Think step by step, then write "The answer is" and the {what}.'
        return "Answer with the letter of the correct option." if question.choices else ""

    def reference(self, question: Question, style: PromptStyle) -> str:
        """What a perfect response says, as few-shot examples show it."""
        if style == "direct":
            return question.answer
        return f"{question.solution or ''}\nThe answer is {question.answer}.".strip()

    def conversation(self, question: Question, prompting: Prompting) -> Sequence[Message]:
        """Everything that the model is given: system message, examples, question.

        For a chat template these are messages, each example two. Without one it is a single message that is given as
        it is: blocks with an empty line between them, each answered after `Answer:`, and the last not yet.

        Raises:
            BenchmarkError: there are not so many examples.
        """
        examples = self.examples(question, prompting.num_fewshot)
        asked = [self._asked(each, prompting.style) for each in (*examples, question)]
        shown = [self.reference(each, prompting.style) for each in examples]
        system = prompting.system
        if prompting.chat:
            turns = [Message("system", system)] if system else []
            for text, reference in zip(asked, shown, strict=False):
                turns += [Message("user", text), Message("assistant", reference)]
            return [*turns, Message("user", asked[-1])]
        blocks = [f"{text}\nAnswer: {reference}" for text, reference in zip(asked, shown, strict=False)]
        return [Message("user", "\n\n".join([*([system] if system else []), *blocks, f"{asked[-1]}\nAnswer:"]))]

    def completions(self, question: Question) -> Sequence[Completion]:
        """Each choice as log-likelihood scoring compares it, in the order of the letters.

        By default the letters after the lettered choices: `" A"`, `" B"`, ...

        Raises:
            BenchmarkError: the question has no choices.
        """
        if not question.choices:
            raise BenchmarkError(
                f"question {question.id!r} of {self.name!r} has no choices to rank by log-likelihood; "
                f"score what the model generates"
            )
        context = f"{self.prompt(question)}\nAnswer:"
        return [Completion(context, f" {letter}") for letter in question.letters]

    def ranking(self, question: Question, prompting: Prompting) -> Sequence[Completion]:
        """The completions of a question with everything that stands before it: system text and examples.

        Raises:
            BenchmarkError: as `completions` and `examples`.
        """
        examples = self.examples(question, prompting.num_fewshot)
        shown = [self.completions(each)[each.letters.index(each.answer)] for each in examples]
        blocks = [f"{each.context}{each.continuation}" for each in shown]
        before = "\n\n".join([*([prompting.system] if prompting.system else []), *blocks, ""])
        return [Completion(before + each.context, each.continuation) for each in self.completions(question)]

    def max_new_tokens(self, style: PromptStyle) -> int:
        """How long a response may become where the user does not say."""
        return RESPONSE_TOKENS[style]

    def stops(self, question: Question) -> Sequence[str]:
        """Texts that end a response, and are not part of it."""
        return ()

    @abstractmethod
    def extract_answer(self, response: str, question: Question) -> str | None:
        """The answer in its canonical form, or None where the response gives none. Never raises on any text."""

    def score(self, answer: str | None, question: Question) -> bool:
        """Whether an extracted answer is right: by default, equality with `question.answer`."""
        return answer == question.answer

    def vote(self, answer: str, question: Question) -> str:
        """What a wrong answer votes for, where several are given to one question: the same for answers that are.

        By default the answer itself. Right ones have the same vote anyway, and are not asked for.
        """
        return answer

    def judge(self, response: str, question: Question) -> Verdict:
        """Everything that is said about a response: by default its extracted answer and its score."""
        answer = self.extract_answer(response, question)
        return Verdict(answer, bool(self.score(answer, question)))

    def judge_choices(self, likelihoods: Sequence[Likelihood], question: Question) -> Verdict:
        """Everything that is said where choices were ranked by log-likelihood.

        By default the answer is the letter of the likeliest choice (`acc` of lm-evaluation-harness); the metric
        `accuracy_norm` is that of the choice that is likeliest by character (`acc_norm`). Of equals, the first counts.

        Args:
            likelihoods: one for each completion.
            question: what was asked.
        """
        plain = [each.loglikelihood for each in likelihoods]
        lengths = [len(each.continuation.strip()) for each in self.completions(question)]
        by_length = [value / max(1, length) for value, length in zip(plain, lengths, strict=True)]
        letter, normalised = (question.letters[values.index(max(values))] for values in (plain, by_length))
        metrics = {"accuracy_norm": float(self.score(normalised, question))}
        return Verdict(letter, bool(self.score(letter, question)), metrics)

    def _asked(self, question: Question, style: PromptStyle) -> str:
        parts = (self.prompt(question), self.instruction(question, style))
        return "\n".join(part for part in parts if part)
