"""Benchmark `mmlu`: 14,042 questions of 57 subjects with four choices each (Hendrycks et al. 2021)."""

from __future__ import annotations

import re
from typing import ClassVar

from actframe.benchmarks.base import LETTERS, Question
from actframe.benchmarks.kinds import ChoiceBenchmark
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row, lacking

__all__ = ["MMLU"]

SPLIT = re.compile(r"_(?:dev|val|test|train)$")


class MMLU(ChoiceBenchmark):
    """Massive Multitask Language Understanding (https://arxiv.org/abs/2009.03300).

    Examples are the first of the subject's `dev` split, which has five. Data are those of the hub, or the original CSV
    files without a header, `test/<subject>_test.csv`, whose names say the subject.
    """

    name: ClassVar[str] = "mmlu"
    published = Published(
        hub="cais/mmlu",
        configuration="all",
        split="test",
        examples="dev",
        columns=("question", "answer"),
        unnamed=("question", *"ABCD", "answer"),
        in_order=True,
        by_subject=True,
    )

    def read(self, row: Row) -> Question:
        if "choices" in row.values:
            choices = row.texts("choices")
        elif missing := [letter for letter in "ABCD" if letter not in row.values]:
            raise lacking(row.place, ["choices"] if len(missing) == 4 else missing, row.values)
        else:
            choices = tuple(str(row.values[letter]) for letter in "ABCD")
        said = (row.said("answer") or "").strip()
        letters = LETTERS[: len(choices)]
        answer = said if len(said) == 1 and said in letters else row.letter("answer", len(choices))
        return Question("", row.text("question").strip(), answer, choices, subject=_subject(row))

    def preface(self, question: Question) -> str:
        """The line that the paper puts before each prompt, and lm-evaluation-harness too."""
        about = f" about {question.subject.replace('_', ' ')}" if question.subject else ""
        return f"The following are multiple choice questions (with answers){about}."


def _subject(row: Row) -> str | None:
    if "subject" in row.values or row.path is None:
        return row.said("subject")
    name = row.path.name.partition(".")[0]
    return SPLIT.sub("", name) if SPLIT.search(name) else None
