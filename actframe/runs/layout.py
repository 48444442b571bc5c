"""RunLayout, the contract of the ways in which a run can lie in its folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from actframe.errors import SettingsError
from actframe.records.record import ActivationRecord
from actframe.runs.elsewhere import StorePlace
from actframe.runs.engines import Written
from actframe.runs.plan import Key, RunPlan
from actframe.runs.results import RunResult

__all__ = ["AnswersSoFar", "RunLayout", "Written"]


@dataclass(frozen=True)
class AnswersSoFar:
    """The answers that are there.

    Attributes:
        answers: one dictionary for each, in the order of the plan; read from disk where that is where they are.
        graded: the same with no more than what statistics need.
    """

    answers: Sequence[Mapping[str, Any]]
    graded: Sequence[Mapping[str, Any]]


class RunLayout(ABC):
    """How one run lies in its folder: entered while it writes, asked before and after.

    Nothing is written, changed or removed before it is entered, and leaving it makes everything durable that was
    appended, whatever the reason.
    """

    location: str
    """The folder's absolute path, or its URL."""

    @abstractmethod
    def check(self) -> None:
        """See that what is in the folder is this run, or nothing that is in its way.

        Raises:
            StorageError: there is something else.
            SettingsError: there is a run that this one does not go on with; the message has the differences.
        """

    @abstractmethod
    def check_can_write(self) -> None:
        """See that answers can be written, without writing any.

        Raises:
            StorageError: the folder cannot be written, or another process writes answers of this run to it.
        """

    @abstractmethod
    def done(self) -> Mapping[Key, bool]:
        """The answers, and records of choices, that are here already and stay, and whether each is right."""

    @abstractmethod
    def append(self, record: ActivationRecord) -> None:
        """Take one answer, or a choice: its record, with what the benchmark says about it."""

    def place(self) -> StorePlace:
        """Where workers in other processes write, while it is entered.

        Raises:
            SettingsError: only one process can write in this way.
        """
        raise SettingsError(
            f"what is in {self.location} is written by one process, and workers are several: use the layout 'store'"
        )

    @abstractmethod
    def flush(self) -> None:
        """Wait until everything that was appended is on disk."""

    @abstractmethod
    def written(self) -> Written:
        """What is on disk at this moment."""

    @abstractmethod
    def answers(self, plan: RunPlan) -> AnswersSoFar:
        """The answers to a plan that are on disk."""

    @abstractmethod
    def earlier_results(self) -> Mapping[str, Any]:
        """The `results.json` of the sittings before this one; empty where there is none."""

    @abstractmethod
    def write_results(self, result: RunResult) -> None:
        """Write `results.json` in one step."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """How much more fits on the disk, with what will be replaced; None where nobody knows."""

    @abstractmethod
    def __enter__(self) -> Self:
        """Begin to write: make the folder, put aside or remove what has to go."""

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
