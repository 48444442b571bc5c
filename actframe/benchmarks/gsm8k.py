"""Benchmark `gsm8k`: 1,319 word problems of school mathematics (Cobbe et al. 2021)."""

from __future__ import annotations

import re
from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import NumberBenchmark
from actframe.benchmarks.numerals import number_in
from actframe.benchmarks.prompting import PromptStyle
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["GSM8K"]

CALCULATION = re.compile(r"<<[^<>]*>>")


class GSM8K(NumberBenchmark):
    """Grade School Math (https://arxiv.org/abs/2110.14168).

    The data's `answer` is a solution with the number after `####`. Examples are drawn from `train`; where the model is
    to reason they show these solutions, without the marks of the paper's calculator (`<<3*4=12>>`).
    """

    name: ClassVar[str] = "gsm8k"
    published = Published(
        hub="openai/gsm8k", configuration="main", split="test", examples="train", columns=("question", "answer")
    )

    def read(self, row: Row) -> Question:
        solution, mark, final = row.text("answer").rpartition("####")
        answer = number_in(final)
        if not mark or answer is None:
            raise row.error(f"'answer' should end in '#### ' and a number, not {row.text('answer')[-40:]!r}")
        return Question("", row.text("question"), answer, solution=CALCULATION.sub("", solution).strip() or None)

    def max_new_tokens(self, style: PromptStyle) -> int:
        # Models reason about these, told to or not.
        return 512 if style == "reason" else 256
