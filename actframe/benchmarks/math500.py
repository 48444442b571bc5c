r"""Benchmark `math500`: 500 problems of mathematical competitions (Hendrycks et al. 2021, Lightman et al. 2023)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import ClassVar

from actframe.benchmarks.answers import extract_math
from actframe.benchmarks.base import Question
from actframe.benchmarks.expressions import normal_math, same_math
from actframe.benchmarks.prompting import PromptStyle, Scoring
from actframe.benchmarks.published import DatasetBenchmark, Published
from actframe.benchmarks.row import Row
from actframe.errors import ActframeError

__all__ = ["MATH500"]


class MATH500(DatasetBenchmark):
    r"""The 500 problems of MATH (https://arxiv.org/abs/2103.03874) that https://arxiv.org/abs/2305.20050 tests with.

    Answers are LaTeX and compared as mathematics, not as texts. There is a single split: examples are other problems
    of it, with their solutions where the model is to reason.
    """

    name: ClassVar[str] = "math500"
    scorings: Sequence[Scoring] = ("generate",)
    published = Published(
        hub="HuggingFaceH4/MATH-500", split="test", examples="test", columns=("problem", "solution", "answer")
    )

    def questions(self) -> Sequence[Question]:
        if importlib.util.find_spec("math_verify") is None:
            # Told now and not when the first answer is compared, which is after the model was loaded.
            raise ActframeError(
                "benchmark 'math500' needs math-verify, which is not installed: pip install \"actframe[math]\""
            )
        return super().questions()

    def read(self, row: Row) -> Question:
        return Question(
            id=row.said("unique_id") or "",
            text=row.text("problem"),
            answer=row.text("answer"),
            subject=row.said("subject"),
            solution=row.said("solution"),
            metadata={"level": row.values["level"]} if "level" in row.values else {},
        )

    def instruction(self, question: Question, style: PromptStyle) -> str:
        if style == "reason":
            return r"Think step by step, then write the final answer in \boxed{}."
        return r"Write only the final answer, in \boxed{}."

    def reference(self, question: Question, style: PromptStyle) -> str:
        boxed = rf"\boxed{{{question.answer}}}"
        if style == "direct":
            return boxed
        return question.solution or f"The answer is {boxed}."

    def max_new_tokens(self, style: PromptStyle) -> int:
        # Models reason about these, told to or not.
        return 2048 if style == "reason" else 512

    def extract_answer(self, response: str, question: Question) -> str | None:
        return extract_math(response)

    def score(self, answer: str | None, question: Question) -> bool:
        return answer is not None and same_math(answer, question.answer)

    def vote(self, answer: str, question: Question) -> str:
        return normal_math(answer)
