"""DatasetBenchmark: a benchmark whose questions are rows of a data set, on the hub or in files."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Protocol, Self

from actframe.benchmarks.base import LETTERS, BenchmarkAdapter, BenchmarkOptions, Question
from actframe.benchmarks.hub import HubData
from actframe.benchmarks.row import Row
from actframe.benchmarks.splits import LocalData
from actframe.errors import ActframeError, BenchmarkError

__all__ = ["DatasetBenchmark", "Published", "check_question", "content_id"]


@dataclass(frozen=True)
class Published:
    """Where a data set is published, and what its parts are called.

    Attributes:
        hub: its name on the hub.
        split: where the questions are.
        examples: the split that few-shot examples come from; where it is `split`, a question is never its own example.
        columns: those that each row must have.
        configuration: which one, where the data set has several.
        unnamed: how the columns of its CSV files without a header are called.
        in_order: whether examples are the first of their split, as for splits that were made to be shown; otherwise
            they are drawn by `seed`.
        by_subject: whether examples are of the question's own subject.
    """

    hub: str
    split: str
    examples: str
    columns: tuple[str, ...]
    configuration: str | None = None
    unnamed: tuple[str, ...] = ()
    in_order: bool = False
    by_subject: bool = False


class Source(Protocol):
    """Where rows come from: `HubData` or `LocalData`. As a string, its name for people."""

    def identity(self) -> Mapping[str, Any]: ...

    def rows(self, split: str, *, or_all: bool = False) -> Iterator[Row]: ...


class DatasetBenchmark(BenchmarkAdapter):
    """Questions from a data set: subclass it with `published`, `read`, and `extract_answer`.

    Everything is read and checked when questions are first asked for, and kept. A question whose `read` leaves the id
    empty gets one from its content (name, subject, and a hash of text and choices), so that it is the same wherever and
    in whatever order the data are; of rows that are alike in all of these, the second gets `-2` at its end. Ids of the
    data set itself must differ.

    Examples are the same for all questions, but for the question itself, so that what stands before questions is
    shared: the first of a split that was made to be shown, else drawn by `seed` once.

    Args:
        data: a file or folder in the published form; default: the hub.
        split: which part instead of `published.split`. A single file is taken for whatever split is meant.
        revision: of the data set on the hub.
        seed: what examples are drawn with, and choices are shuffled with where they are.

    Raises:
        BenchmarkError: there is nothing at `data`, or both it and `revision` were given. When questions are read: the
            data cannot be had, or a row is no question; the message names the file and the row.
    """

    published: Published

    shuffled: ClassVar[bool] = False
    """Whether choices are shuffled, by `seed` and the question's id: for data whose right answer always comes first."""

    def __init__(
        self, data: str | None = None, split: str | None = None, *, revision: str | None = None, seed: int = 0
    ) -> None:
        if data is not None and revision is not None:
            raise BenchmarkError(
                "a revision is one of a data set on the hub; leave it out where data are given as files"
            )
        self._split = split
        self._seed = seed
        self._splits: dict[str, tuple[Question, ...]] = {}
        self._pools: dict[str | None, Sequence[Question]] = {}
        wanted = self.published
        self._source: Source = (
            HubData(wanted.hub, wanted.configuration, revision)
            if data is None
            else LocalData(str(data), wanted.configuration, wanted.unnamed)
        )

    @classmethod
    def open(cls, options: BenchmarkOptions) -> Self:
        if options.task is not None:
            raise BenchmarkError(f"benchmark {cls.name!r} has no tasks; leave out {':' + options.task!r}")
        return cls(options.data, options.split, revision=options.revision, seed=options.seed or 0)

    def __getstate__(self) -> dict[str, Any]:
        """What was read is not pickled: it is read again where it is needed."""
        return {**self.__dict__, "_splits": {}, "_pools": {}}

    @abstractmethod
    def read(self, row: Row) -> Question:
        """The question that a row holds; its id may be left empty, and so may the answer where nobody knows it.

        Raises:
            BenchmarkError: the row is no question. `row` has methods that raise it with the place of the row.
        """

    @property
    def split(self) -> str:
        """Where the questions come from."""
        return self._split or self.published.split

    def questions(self) -> Sequence[Question]:
        return self._questions_of(self.split)

    def identity(self) -> Mapping[str, Any]:
        return {**self._source.identity(), "split": self.split, "seed": self._seed}

    def examples(self, question: Question, count: int) -> Sequence[Question]:
        """The first that many examples which are not this question; see the class for which these are.

        Raises:
            BenchmarkError: there are not so many, or no split to take them from.
        """
        if not count:
            return ()
        pool = self._pool(question.subject if self.published.by_subject else None)
        others = (each for each in pool if each.id != question.id and each.text != question.text)
        if len(shown := list(islice(others, count))) < count:
            of_subject = f" for the subject {question.subject!r}" if self.published.by_subject else ""
            raise BenchmarkError(
                f"benchmark {self.name!r}: {count} examples were asked for, and the split {self._examples_split!r} has "
                f"{len(shown)}{of_subject} beside the question itself; lower num_fewshot"
            )
        return shown

    @property
    def _examples_split(self) -> str:
        """Where the questions come from themselves when no other split was published."""
        return self.split if self.published.examples == self.published.split else self.published.examples

    def _pool(self, subject: str | None) -> Sequence[Question]:
        """All that can be shown, in the order in which it is; with a subject, only of it."""
        if subject not in self._pools:
            known = [each for each in self._questions_of(self._examples_split) if each.answer]
            pool = [each for each in known if subject in (None, each.subject)]
            if not self.published.in_order:
                pool.sort(key=lambda each: digest(f"{self._seed}/{each.id}"))
            self._pools[subject] = pool
        return self._pools[subject]

    def _questions_of(self, split: str) -> tuple[Question, ...]:
        if split not in self._splits:
            # Where no file says what split it is, all are the questions; a split that was asked for must be there.
            rows = self._source.rows(split, or_all=split == self.split and self._split is None)
            questions = tuple(self._checked(rows))
            if not questions:
                raise BenchmarkError(f"benchmark {self.name!r}: the split {split!r} of {self._source} has no rows")
            self._splits[split] = questions
        return self._splits[split]

    def _checked(self, rows: Iterable[Row]) -> Iterator[Question]:
        places: dict[str, str] = {}
        alike: Counter[str] = Counter()
        for row in rows:
            question = self._question(row)
            if not question.id:
                question = replace(question, id=content_id(self.name, question))
                alike[question.id] += 1
                if (times := alike[question.id]) > 1:
                    question = replace(question, id=f"{question.id}-{times}")
            if question.id in places:
                raise row.error(f"the id {question.id!r} is already that of {places[question.id]}")
            places[question.id] = row.place
            yield shuffle(question, self._seed) if self.shuffled else question

    def _question(self, row: Row) -> Question:
        row.require(*self.published.columns)
        try:
            question = self.read(row)
        except ActframeError:
            raise
        except Exception as error:
            raise row.error(f"benchmark {self.name!r} cannot read it: {type(error).__name__}: {error}") from error
        check_question(question, row)
        return question


def check_question(question: Question, row: Row) -> None:
    """Raises where a question has no text, one choice or too many, or an answer that is none of them."""
    if not question.text.strip():
        raise row.error("the question has no text")
    if question.choices and not 2 <= len(question.choices) <= len(LETTERS):
        raise row.error(f"{len(question.choices)} choices; there should be 2 to {len(LETTERS)}")
    if question.choices and question.answer and question.answer not in tuple(question.letters):
        raise row.error(f"the answer {question.answer!r} is none of {', '.join(question.letters)}")


def content_id(name: str, question: Question) -> str:
    """An id that says what is asked: the same for the same text and choices, wherever they stand.

    >>> content_id("mmlu", Question("", "Up?", "A", ("yes", "no"), "logic"))
    'mmlu/logic/dae089c03d4e'
    """
    parts = [name, question.subject] if question.subject else [name]
    return "/".join([*parts, digest(json.dumps([question.text, *question.choices]))[:12]])


def shuffle(question: Question, seed: int) -> Question:
    """The question with its choices in an order that depends on the seed and its id alone, and its answer with them."""
    order = sorted(range(len(question.choices)), key=lambda number: digest(f"{seed}/{question.id}/{number}"))
    answer = question.answer and LETTERS[order.index(LETTERS.index(question.answer))]
    return replace(question, choices=tuple(question.choices[number] for number in order), answer=answer)


def digest(text: str) -> str:
    """The same in every process, unlike `hash`."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
