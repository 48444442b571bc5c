"""Benchmark `gpqa`: questions of experts that a search does not answer, with four choices (Rein et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

from actframe.benchmarks.base import BenchmarkOptions, Question
from actframe.benchmarks.kinds import ChoiceBenchmark
from actframe.benchmarks.prompting import Completion
from actframe.benchmarks.published import Published
from actframe.benchmarks.row import Row
from actframe.errors import BenchmarkError

__all__ = ["GPQA"]

SUBSETS = ("diamond", "main", "extended")
WRONG = tuple(f"Incorrect Answer {number}" for number in (1, 2, 3))


class GPQA(ChoiceBenchmark):
    """Graduate-level Google-proof questions (https://arxiv.org/abs/2311.12022).

    There are three sets of them, each within the next: `gpqa` and `gpqa:diamond` are 198 questions, `gpqa:main` 448,
    `gpqa:extended` 546. The right choice has a column of its own, so choices are shuffled. There is a single split,
    `train`: examples are other questions of it. The data set is gated on the hub.

    Args:
        subset: `"diamond"`, `"main"` or `"extended"`.
    """

    name: ClassVar[str] = "gpqa"
    published = Published(
        hub="Idavidrein/gpqa",
        configuration="gpqa_diamond",
        split="train",
        examples="train",
        columns=("Question", "Correct Answer", *WRONG),
    )
    shuffled: ClassVar[bool] = True

    def __init__(
        self,
        data: str | None = None,
        split: str | None = None,
        *,
        revision: str | None = None,
        seed: int = 0,
        subset: str = "diamond",
    ) -> None:
        if subset not in SUBSETS:
            raise BenchmarkError(f"benchmark 'gpqa' has no set {subset!r}; there are {', '.join(SUBSETS)}")
        self.subset = subset
        self.published = replace(type(self).published, configuration=f"gpqa_{subset}")
        super().__init__(data, split, revision=revision, seed=seed)

    @classmethod
    def open(cls, options: BenchmarkOptions) -> Self:
        subset = options.task or "diamond"
        return cls(options.data, options.split, revision=options.revision, seed=options.seed or 0, subset=subset)

    def read(self, row: Row) -> Question:
        return Question(
            id=row.said("Record ID") or "",
            text=row.text("Question"),
            answer="A",
            choices=tuple(_cleaned(row.text(column)) for column in ("Correct Answer", *WRONG)),
            subject=row.said("High-level domain"),
            solution=row.said("Explanation"),
        )

    def completions(self, question: Question) -> Sequence[Completion]:
        listed = "\n".join(f"({letter}) {c}" for letter, c in zip(question.letters, question.choices, strict=True))
        context = f"What is the correct answer to this question:{question.text}\nChoices:\n{listed}\nAnswer:"
        return [Completion(context, f" ({letter})") for letter in question.letters]


def _cleaned(text: str) -> str:
    """As lm-evaluation-harness has it."""
    return text.strip().replace(" [title]", ". ").replace("  ", " ")
