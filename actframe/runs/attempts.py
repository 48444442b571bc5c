"""Which tasks of a run are given to its engine, and which are given up."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from actframe.errors import EngineError, SettingsError
from actframe.runs.engines import ExecutionEngine, Outcome, Task, Written
from actframe.runs.settings import RunSettings

__all__ = ["Attempts", "check_engine"]

LIMIT = 3
"""A task at which so many workers died is not given to another one."""


class Attempts:
    """The rounds in which an engine does a run's tasks: one, and more where workers died.

    Args:
        missing: what messages call the items of a task whose records are missing.

    Attributes:
        failures: why items were left out, by their names.
    """

    def __init__(self, missing: Callable[[Task], Iterable[str]]) -> None:
        self._missing = missing
        self._deaths: Counter[int | None] = Counter()
        self._reasons: dict[int | None, str] = {}
        self._again = False
        self._written: dict[str, Written] = {}
        self.failures: dict[str, str] = {}

    @property
    def again(self) -> bool:
        """Whether workers died in the latest round, so that another one is needed."""
        return self._again

    @property
    def written(self) -> Written:
        """In this round, by workers that write by themselves; of earlier rounds the store knows."""
        return sum(self._written.values(), Written())

    @property
    def reason(self) -> str | None:
        """What to say of the failures; None where there are none."""
        if not self.failures:
            return None
        name, reason = next(iter(self.failures.items()))
        if len(self.failures) == 1:
            return f"{name} failed: {reason}"
        named = ", ".join(list(self.failures)[:3]) + (", ..." if len(self.failures) > 3 else "")
        return f"{len(self.failures)} failed ({named}), the first with {reason}"

    def begin(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """The tasks of the next round: those at which workers died come last, and those that are given up not at all.

        Args:
            tasks: all that remain, by what is on disk.

        Raises:
            EngineError: workers keep dying, whatever they are at.
        """
        if self._deaths[None] >= LIMIT:
            raise EngineError(f"workers keep dying where they are at no task: {self._reasons[None]}")
        self._again = False
        self._written.clear()
        doubtful = []
        for task in tasks:
            deaths = self._deaths[task.number]
            if deaths >= LIMIT:
                reason = f"{deaths} workers died at it ({self._reasons[task.number]})"
                self.failures.update(dict.fromkeys(self._missing(task), reason))
            elif deaths:
                doubtful.append(task)
            else:
                yield task
        yield from doubtful

    def take(self, outcome: Outcome) -> None:
        """Note what came of a task, and pass on what its worker has to say."""
        self._written[outcome.worker] = outcome.written
        for notice in outcome.notices:
            warnings.warn(notice, RuntimeWarning, stacklevel=2)
        self.failures.update({each.name: each.reason for each in outcome.failures})
        if outcome.lost is not None:
            self._again = True
            self._deaths[outcome.task] += 1
            self._reasons[outcome.task] = outcome.lost
            warnings.warn(
                f"a worker died ({outcome.lost}); what it had not written is computed again",
                RuntimeWarning,
                stacklevel=2,
            )


def check_engine(engine: ExecutionEngine, settings: RunSettings) -> None:
    """Refuse settings that only workers in the process of the run can keep.

    Raises:
        SettingsError: they are of such, and the engine has others.
    """
    if engine.in_process:
        return
    if settings.layout != "store":
        raise SettingsError(
            f"the layout {settings.layout!r} is written by one process, and the engine {engine.name!r} has several: "
            f"use the layout 'store'"
        )
    if settings.max_disk_bytes is not None:
        raise SettingsError(
            f"max_disk_bytes (--max-disk) is kept by one process, and the engine {engine.name!r} has several: leave it "
            f"out, or use the engine 'local'"
        )
