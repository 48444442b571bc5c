"""Benchmark `winogrande`: 1,267 sentences with a blank and two names to fill it (Sakaguchi et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from actframe.benchmarks.base import Question
from actframe.benchmarks.kinds import ChoiceBenchmark
from actframe.benchmarks.prompting import Completion, PromptStyle
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["WinoGrande"]

BLANK = "_"


class WinoGrande(ChoiceBenchmark):
    """WinoGrande (https://arxiv.org/abs/1907.10641): its `validation` split, since `test` has no answers.

    By log-likelihood it is what follows the blank that is scored, after the sentence up to it with either name filled
    in (Trinh & Le 2018, https://arxiv.org/abs/1806.02847).
    """

    name: ClassVar[str] = "winogrande"
    published = Published(
        hub="allenai/winogrande",
        configuration="winogrande_xl",
        split="validation",
        examples="train",
        columns=("sentence", "option1", "option2", "answer"),
    )

    def read(self, row: Row) -> Question:
        sentence = row.text("sentence")
        if BLANK not in sentence:
            raise row.error(f"'sentence' has no blank ({BLANK}): {sentence!r:.80}")
        choices = (row.text("option1"), row.text("option2"))
        return Question("", sentence, row.letter("answer", 2, first=1), choices)

    def instruction(self, question: Question, style: PromptStyle) -> str:
        return f"Which option fills the blank ({BLANK})? {super().instruction(question, style)}"

    def completions(self, question: Question) -> Sequence[Completion]:
        before, _, after = question.text.partition(BLANK)
        return [Completion(f"{before}{choice}", f" {after.strip()}") for choice in question.choices]
