"""Benchmark `mmlu_pro`: 12,032 harder questions of 14 subjects with up to ten choices each (Wang et al. 2024)."""

from __future__ import annotations

import re
from typing import ClassVar

from actframe.benchmarks.base import LETTERS, Question
from actframe.benchmarks.kinds import ChoiceBenchmark
from actframe.benchmarks.prompting import PromptStyle
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row

__all__ = ["MMLUPro"]

NO_OPTION = "N/A"
OPENING = re.compile(r"^\s*A: Let's think step by step\.\s*")
CONCLUSION = re.compile(r"\s*The answer is \([A-Z]\)\.?\s*$")


class MMLUPro(ChoiceBenchmark):
    """A harder MMLU (https://arxiv.org/abs/2406.01574).

    Options that say `N/A` fill up the lists of the data and are left out. Examples are the first of the category's
    `validation` split, which has five, with their reasoning.
    """

    name: ClassVar[str] = "mmlu_pro"
    published = Published(
        hub="TIGER-Lab/MMLU-Pro",
        split="test",
        examples="validation",
        columns=("question", "options", "answer_index"),
        in_order=True,
        by_subject=True,
    )

    def read(self, row: Row) -> Question:
        options = row.texts("options")
        listed = row.letter("answer_index", len(options))
        said = row.said("answer") or listed
        if said != listed:
            raise row.error(f"'answer' is {said!r}, and 'answer_index' {row.values['answer_index']!r} means {listed!r}")
        kept = [number for number, option in enumerate(options) if option.strip() != NO_OPTION]
        if listed and LETTERS.index(listed) not in kept:
            raise row.error(f"the answer {listed!r} is an option that says {NO_OPTION!r}")
        solution = CONCLUSION.sub("", OPENING.sub("", row.said("cot_content") or "")) or None
        return Question(
            id=row.said("question_id") or "",
            text=row.text("question"),
            answer=LETTERS[kept.index(LETTERS.index(listed))] if listed else "",
            choices=tuple(options[number] for number in kept),
            subject=row.said("category"),
            solution=solution,
        )

    def max_new_tokens(self, style: PromptStyle) -> int:
        return 2048 if style == "reason" else super().max_new_tokens(style)

    def preface(self, question: Question) -> str:
        about = f" about {question.subject}" if question.subject else ""
        return f"The following are multiple choice questions (with answers){about}."
