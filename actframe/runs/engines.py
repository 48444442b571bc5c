"""ExecutionEngine, the contract of the places where a run executes, and `local`, which is here.

A run plans its work as tasks: batches that are computed together, always the same ones, so that an answer does not
depend on who computes it. An engine gives the tasks to workers. Each worker loads the model once and writes what comes
of its tasks into the one store of the run, with a writer of its own. What is on disk in the end is what counts: the
run reads it there, and has tasks done again whose records a dead worker took with it.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from actframe.extension import Extension

__all__ = [
    "ExecutionEngine",
    "Failure",
    "LocalEngine",
    "Outcome",
    "Task",
    "Work",
    "Worker",
    "Written",
    "engine_option",
]


@dataclass(frozen=True)
class Written:
    """What of a run is on disk at this moment, and what is on its way.

    Attributes:
        bytes_on_disk: everything that the run keeps, from earlier sittings too; of a worker, what it wrote.
        queued_records, queued_bytes: what waits to be written.
        bytes_per_second: how fast this sitting writes.
    """

    bytes_on_disk: int = 0
    queued_records: int = 0
    queued_bytes: int = 0
    bytes_per_second: float = 0.0

    def __add__(self, other: Written) -> Written:
        return Written(
            self.bytes_on_disk + other.bytes_on_disk,
            self.queued_records + other.queued_records,
            self.queued_bytes + other.queued_bytes,
            self.bytes_per_second + other.bytes_per_second,
        )


@dataclass(frozen=True)
class Task:
    """What is computed together, by one worker.

    Attributes:
        number: which task of its run it is; the same whenever the run goes on.
        items: what is computed. It depends on nothing else, so that each answer has the same neighbours every time.
        done: which of their records are there already, by what these are found by; they are not written again.
    """

    number: int
    items: Sequence[Any]
    done: frozenset[Any] = frozenset()


@dataclass(frozen=True)
class Failure:
    """An item that could not be computed.

    Attributes:
        name: what messages call it.
        reason: the error, in a line.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What came of a task, or of a part of it.

    Attributes:
        task: its number; None where a worker died that was at no task.
        records: how many answers or texts were given to the store. When their worker is closed, they are on disk.
        correct, ungraded: how many of their answers are right, and of how many nobody knows.
        tokens: how many were computed.
        seconds: how long that took.
        failures: items that were left out.
        lost: why the worker died while it was at the task; None where it did not.
        worker: whose it is; where one takes the place of another, it takes its name as well.
        written: by a worker that writes by itself, so far.
        halved_from_tokens: batches as large are computed in halves by this worker, because of its memory.
        notices: warnings of a worker in another process.
    """

    task: int | None
    records: int = 0
    correct: int = 0
    ungraded: int = 0
    tokens: int = 0
    seconds: float = 0.0
    failures: tuple[Failure, ...] = ()
    lost: str | None = None
    worker: str = ""
    written: Written = field(default_factory=Written)
    halved_from_tokens: int | None = None
    notices: tuple[str, ...] = ()


class Worker(ABC):
    """Computes tasks: the model is loaded, the store is open."""

    @abstractmethod
    def compute(self, task: Task) -> Iterator[Outcome]:
        """Compute a task and give the records that are missing to the store; says what came of each part, as it comes.

        An item that fails is left out, the others of its task are computed without it.

        Raises:
            StorageError: what is written cannot be.
            Exception: item after item failed, with this.
        """

    def written(self) -> Written:
        """What it wrote, where it writes by itself."""
        return Written()

    def compute_whole(self, task: Task) -> Outcome:
        """Compute a task, and say what came of all of it: for workers in another process, whose warnings come along.

        Raises:
            StorageError, Exception: as `compute`.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts = list(self.compute(task))
        notices = dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, RuntimeWarning))
        return Outcome(
            task.number,
            records=sum(each.records for each in parts),
            correct=sum(each.correct for each in parts),
            ungraded=sum(each.ungraded for each in parts),
            tokens=sum(each.tokens for each in parts),
            seconds=sum(each.seconds for each in parts),
            failures=tuple(itertools.chain.from_iterable(each.failures for each in parts)),
            written=self.written(),
            halved_from_tokens=parts[-1].halved_from_tokens if parts else None,
            notices=tuple(notices),
        )


class Work(ABC):
    """What a run has to do, without its tasks. It can be pickled; questions go with the tasks.

    In the process of the run a worker uses the run's own model and writer. Where the work was unpickled, a worker
    loads the model and opens the store with a writer of its own: the store must be at the same path or URL there.
    """

    @abstractmethod
    def worker(self) -> AbstractContextManager[Worker]:
        """A worker in this process. When the block ends, all that it took is on disk.

        Raises:
            ModelError: the model cannot be loaded here, or is another one than that of the run.
            StorageError: the store cannot be opened here, or is not that of the run.
        """


class ExecutionEngine(Extension, ABC):
    """Has the tasks of a run done.

    An engine is a dataclass: its fields are its options, in Python and on the command line, where the field
    `gpus_per_worker` becomes `--gpus-per-worker`. `engine_option` gives them a help text.

        @dataclass(frozen=True)
        class PoolEngine(ExecutionEngine):
            name = "pool"
            workers: int = engine_option(2, "How many processes.")

            def run(self, work, tasks): ...
    """

    kind: ClassVar[str] = "engine"
    contract_version: ClassVar[int] = 1
    in_process: ClassVar[bool] = False
    """Whether its only worker is in the process of the run, and writes with the run's own writer."""

    @abstractmethod
    def run(self, work: Work, tasks: Iterator[Task]) -> Generator[Outcome]:
        """Have each task done once; gives what came of them, in any order.

        Tasks are taken as they are needed: there may be millions, and the run may end them early. Where a worker
        dies, another takes its place, and the outcome of its task says `lost`: the run looks what is on disk, and
        gives it to a later call. What a worker raises ends the call. However it ends, also by `close()` in the middle,
        every worker was closed when it has ended.

        Raises:
            EngineError: workers cannot be had, or die before they are at work.
            StorageError, ModelError, Exception: what a worker raised.
        """


def engine_option(default: Any, help: str, *, metavar: str | None = None) -> Any:
    """A field of an engine that is one of its options.

    Args:
        default: its value where nothing is said. None may also stand for what the help says.
        help: what it means, in a sentence.
        metavar: what stands for its value in the help of the command. Default: its type.
    """
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass(frozen=True)
class LocalEngine(ExecutionEngine):
    """One worker, in this process."""

    name: ClassVar[str] = "local"
    in_process: ClassVar[bool] = True

    def run(self, work: Work, tasks: Iterator[Task]) -> Generator[Outcome]:
        """As the contract says."""
        if (first := next(tasks, None)) is None:
            # A recorder that records nothing would complain, with reason.
            return
        with work.worker() as worker:
            for task in itertools.chain([first], tasks):
                yield from worker.compute(task)
