"""LmEval: prompts, examples, filters and metrics are the harness's; generation and recording are actframe's."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from actframe import (
    BenchmarkAdapter,
    BenchmarkError,
    BenchmarkOptions,
    Completion,
    Likelihood,
    Message,
    Prompting,
    Question,
    Verdict,
)
from actframe_lm_eval.loading import FEWSHOT_SEED, SCORINGS, load_task

__all__ = ["LmEval"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

RESPONSE_TOKENS = 256
"""How long the harness lets a response become where a task does not say."""

INVALID = "[invalid]"
"""What the harness's filters say of a response in which they find nothing."""

MAIN = ("acc", "exact_match")
"""The metrics that say whether an answer is right; of a task that has neither, its first one."""


class LmEval(BenchmarkAdapter):
    """A task of lm-evaluation-harness: `lm_eval:arc_easy`, `lm_eval:/path/to/task.yaml`.

    Ids are the task's name and the number of the document in its split, as the harness counts them. `num_fewshot=0`
    means as many examples as the task itself wants; they are the harness's own, drawn as it draws them by default.

    Args:
        task: its name, or the path of its YAML file.

    Attributes:
        task: the harness's task object.
        scorings: one way, which follows from the type of the task.

    Raises:
        UnknownNameError, BenchmarkError: as `load_task`.
    """

    name = "lm_eval"

    def __init__(self, task: str) -> None:
        self._named = task
        self.task = load_task(task)
        self.scorings = (SCORINGS[self.task.OUTPUT_TYPE],)
        self._documents: dict[str, Any] = {}
        self._contexts: dict[tuple[int, str | None, bool], _Contexts] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._named,)

    @classmethod
    def open(cls, options: BenchmarkOptions) -> Self:
        """The task of the options, which have no others."""
        given = options.given()
        task = given.pop("task", None)
        if task is None:
            raise BenchmarkError("lm_eval needs a task: lm_eval:arc_easy, or lm_eval:path/to/task.yaml")
        if given:
            raise BenchmarkError(
                f"a task of lm_eval has no option {', '.join(map(repr, given))}: its YAML says what its data is"
            )
        return cls(task)

    def identity(self) -> Mapping[str, Any]:
        config = self.task.config
        return {
            "task": self.task.task_name,
            "task_version": str(self.task.VERSION),
            "data": config.dataset_path,
            "data_name": config.dataset_name,
            "lm_eval": importlib.metadata.version("lm_eval"),
        }

    def questions(self) -> Iterator[Question]:
        for number, document in self.task.doc_iterator():
            question = self._question(number, document)
            self._documents[question.id] = document
            yield question

    def conversation(self, question: Question, prompting: Prompting) -> Sequence[Message]:
        context = self._context(question, prompting, chat=bool(prompting.chat))
        return context if isinstance(context, list) else [Message("user", context)]

    def completions(self, question: Question) -> Sequence[Completion]:
        return self.ranking(question, Prompting())

    def ranking(self, question: Question, prompting: Prompting) -> Sequence[Completion]:
        # In a chat template the whole context is what the user says, and choices stand after it without a delimiter.
        context = self._context(question, prompting, chat=False)
        return [Completion(*each.args[:2]) for each in self._requests(question, context, chat=bool(prompting.chat))]

    def reference(self, question: Question, style: str) -> str:
        # How a response is put is the task's own matter: there is one way, whatever the style.
        return question.answer

    def max_new_tokens(self, style: str) -> int:
        return int((self.task.config.generation_kwargs or {}).get("max_gen_toks", RESPONSE_TOKENS))

    def stops(self, question: Question) -> Sequence[str]:
        until = (self.task.config.generation_kwargs or {}).get("until") or []
        return [until] if isinstance(until, str) else [stop for stop in until if stop]

    def extract_answer(self, response: str, question: Question) -> str | None:
        return self.judge(response, question).answer

    def judge(self, response: str, question: Question) -> Verdict:
        (request,) = self._requests(question, "")
        request.resps = [response]
        metrics = self._metrics(question, [request])
        answer = str(next(iter(request.filtered_resps.values())))
        return Verdict(None if answer.strip() in ("", INVALID) else answer, _is_right(metrics), metrics)

    def judge_choices(self, likelihoods: Sequence[Likelihood], question: Question) -> Verdict:
        context = [""] * len(likelihoods) if self.task.multiple_input else ""
        requests = self._requests(question, context)
        for request, each in zip(requests, likelihoods, strict=True):
            request.resps = [(each.loglikelihood, each.greedy)]
        metrics = self._metrics(question, requests)
        # Some metrics want the choices without their context as well, and these come last.
        values = [each.loglikelihood for each in likelihoods[: len(question.choices)]]
        return Verdict(_letter(values.index(max(values))), _is_right(metrics), metrics)

    def _question(self, number: int, document: Any) -> Question:
        task = self.task
        choices = task.doc_to_choice(document) if task.OUTPUT_TYPE == "multiple_choice" else []
        text = task.doc_to_text(document)
        target = text if task.multiple_input else task.doc_to_target(document)
        if task.multiple_input:
            # The choices are what stands before the one text that is scored.
            text = " / ".join(choices)
        if choices and isinstance(target, str) and target in choices:
            target = choices.index(target)
        right = target if isinstance(target, list) else [target]
        answer = ", ".join(_letter(each) if choices and isinstance(each, int) else str(each) for each in right)
        return Question(
            f"{task.task_name}/{number}",
            str(text).strip() or f"document {number}",
            answer,
            choices=tuple(map(str, choices)),
            metadata={"doc_id": number},
        )

    def _document(self, question: Question) -> Any:
        if question.id not in self._documents:
            for _ in self.questions():
                pass
        try:
            return self._documents[question.id]
        except KeyError:
            raise BenchmarkError(f"task {self.task.task_name!r} has no question {question.id!r}") from None

    def _context(self, question: Question, prompting: Prompting, *, chat: bool) -> Any:
        """What stands before the answer: a text, one for each choice, or the messages of a chat."""
        asked = (prompting.num_fewshot, prompting.system, chat)
        if asked not in self._contexts:
            self._contexts[asked] = _Contexts(self.task, *asked)
        return self._contexts[asked].of(int(question.metadata["doc_id"]))

    def _requests(self, question: Question, context: Any, *, chat: bool = False) -> list[Any]:
        """The harness's requests for a question, whose responses it judges."""
        made = self.task.construct_requests(
            doc=self._document(question),
            ctx=context,
            metadata=(self.task.task_name, question.metadata["doc_id"], 1),
            apply_chat_template=chat,
        )
        return list(made) if isinstance(made, list) else [made]

    def _metrics(self, question: Question, requests: list[Any]) -> dict[str, float]:
        """What the task makes of filtered responses; those of several filters under the names that the harness uses."""
        self.task._instances = requests
        self.task.apply_filters()
        filters = list(requests[0].filtered_resps)
        found = {}
        for each in filters:
            responses = [request.filtered_resps[each] for request in requests]
            for metric, value in self.task.process_results(self._document(question), responses).items():
                # What is not a number of one question is a part of one of all, an F1 say.
                if isinstance(value, int | float) or hasattr(value, "item"):
                    found[metric if len(filters) == 1 else f"{metric},{each}"] = float(value)
        return found


class _Contexts:
    """The contexts of a task, made from the first document on: which examples stand before each is drawn in turn."""

    def __init__(self, task: Any, num_fewshot: int, system: str | None, chat: bool) -> None:
        own = task.config.num_fewshot
        if num_fewshot and own == 0:
            raise BenchmarkError(f"task {task.task_name!r} is put without examples: leave num_fewshot at 0")
        self._task, self._count = task, num_fewshot or own or 0
        self._system, self._chat = system, chat
        self._made: list[Any] = []

    def of(self, number: int) -> Any:
        """The context of one document."""
        if number >= len(self._made):
            self._make(number)
        return self._made[number]

    def _make(self, last: int) -> None:
        # From the beginning: what other contexts drew meanwhile must not matter.
        self._task.set_fewshot_seed(FEWSHOT_SEED)
        self._made = [self._one(document) for _, document in self._task.doc_iterator(limit=max(2 * last, 64))]

    def _one(self, document: Any) -> Any:
        prefix = self._task.doc_to_prefix(document)
        if self._chat and prefix:
            raise BenchmarkError(
                f"task {self._task.task_name!r} begins the answer itself ({prefix!r}), which a chat template cannot "
                "take; leave the template off"
            )
        said: list[Message] = []

        def keep(messages: Iterable[Mapping[str, str]], **_: Any) -> str:
            said.extend(Message(each["role"], each["content"]) for each in messages)
            return ""

        try:
            text = self._task.fewshot_context(
                document,
                num_fewshot=self._count,
                system_instruction=self._system,
                apply_chat_template=self._chat,
                fewshot_as_multiturn=self._chat,
                chat_template=keep if self._chat else None,
                gen_prefix=prefix,
            )
        except ValueError as error:
            raise BenchmarkError(
                f"task {self._task.task_name!r} cannot show {self._count} examples: {error}"
            ) from error
        return said if self._chat else text


def _letter(number: int) -> str:
    return LETTERS[number] if 0 <= number < len(LETTERS) else str(number + 1)


def _is_right(metrics: Mapping[str, float]) -> bool:
    """Whether the main metric of the first filter is full."""
    chosen = next((value for name in MAIN for key, value in metrics.items() if key.split(",")[0] == name), None)
    return (next(iter(metrics.values()), 0.0) if chosen is None else chosen) >= 1.0
