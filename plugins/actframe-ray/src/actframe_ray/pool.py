"""Pool: actors that take tasks one by one, and others in the place of those that die."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RaySystemError, RayTaskError

from actframe import EngineError, Outcome, SettingsError, Task, Work, Worker
from actframe_ray.cluster import Resources

__all__ = ["Pool", "RayWorker"]

PATIENCE = 3
"""When so many workers of each place have died one after the other, and no task was done, there is no point."""

LOOK_AGAIN_SECONDS = 1.0
"""Ctrl-C is noticed between two looks."""


class RayWorker:
    """A worker in a process of its own.

    Args:
        threads: for torch.
        path: where the process of the run finds modules, such as that of a benchmark in a script's folder.
    """

    def __init__(self, threads: int, path: list[str]) -> None:
        import torch

        sys.path += [folder for folder in path if folder not in sys.path]
        torch.set_num_threads(threads)
        self._opened = ExitStack()
        self._worker: Worker | None = None

    def open(self, work: Work) -> None:
        """Load the model, open the store."""
        self._worker = self._opened.enter_context(work.worker())

    def compute(self, task: Task) -> Outcome:
        """Do a task."""
        assert self._worker is not None
        return self._worker.compute_whole(task)

    def close(self) -> None:
        """Make everything durable."""
        self._opened.close()


class Pool:
    """The workers of one run.

    Args:
        work: what they do.
        resources: what each gets.
        workers: how many there are.

    Raises:
        SettingsError: the work cannot be sent to them.
    """

    def __init__(self, work: Work, resources: Resources, workers: int) -> None:
        self._places = range(workers)
        self._kind: Any = ray.remote(RayWorker).options(num_cpus=resources.cpus, num_gpus=resources.gpus)
        self._threads = resources.cpus
        self._actors: dict[int, Any] = {}
        # What each reference will bring: to open, a task, or to close.
        self._awaited: dict[Any, tuple[int, Task | str]] = {}
        self._deaths = 0
        try:
            self._work = ray.put(work)
        except Exception as error:
            raise SettingsError(
                f"the model or the benchmark cannot be sent to workers: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}. Give the model by name or as a folder, and keep open files and "
                f"the like out of the benchmark"
            ) from error

    def run(self, tasks: Iterator[Task]) -> Generator[Outcome]:
        """Have the tasks done.

        Raises:
            EngineError: workers die again and again.
            Exception: what a worker raised.
        """
        for place in self._places:
            self._begin(place)
        while self._awaited:
            ready, _ = ray.wait(list(self._awaited), timeout=LOOK_AGAIN_SECONDS)
            for reference in ready:
                yield from self._arrived(reference, tasks)

    def close(self) -> None:
        """Let every worker finish what it is at, make it durable, and end."""
        closing = {self._actors[place].close.remote(): place for place in self._actors}
        try:
            for reference in closing:
                try:
                    ray.get(reference)
                except RayActorError:
                    continue
                except RayTaskError as error:
                    warnings.warn(f"a worker could not keep what it had: {error.cause}", RuntimeWarning, stacklevel=2)
        finally:
            for actor in self._actors.values():
                with suppress(Exception):
                    ray.kill(actor)
            self._actors.clear()
            self._awaited.clear()

    def _begin(self, place: int) -> None:
        actor = self._actors[place] = self._kind.remote(self._threads, [os.path.abspath(folder) for folder in sys.path])
        self._awaited[actor.open.remote(self._work)] = place, "open"

    def _arrived(self, reference: Any, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Look at what a worker has done, and give it more to do."""
        place, what = self._awaited.pop(reference)
        try:
            found = ray.get(reference)
        except RayActorError as error:
            yield from self._died(place, what, error)
            return
        except RayTaskError as error:
            raise _cause(error) from None
        if what == "close":
            ray.kill(self._actors.pop(place))
            return
        actor = self._actors[place]
        if isinstance(found, Outcome):
            self._deaths = 0
            yield replace(found, worker=str(place))
        if (task := next(tasks, None)) is not None:
            self._awaited[actor.compute.remote(task)] = place, task
        else:
            self._awaited[actor.close.remote()] = place, "close"

    def _died(self, place: int, what: Task | str, error: RayActorError) -> Iterator[Outcome]:
        """Put another worker in the place of one that died; it takes the tasks that are left."""
        del self._actors[place]
        reason = _reason(error)
        self._deaths += 1
        if isinstance(what, Task):
            yield Outcome(what.number, lost=reason, worker=str(place))
        elif what == "close":
            yield Outcome(None, lost=reason, worker=str(place))
            return
        if self._deaths >= PATIENCE * len(self._places):
            raise EngineError(f"{self._deaths} workers died one after the other, the last one: {reason}")
        self._begin(place)


def _cause(error: RayTaskError) -> BaseException:
    """What a worker raised, as it raised it."""
    cause = error.cause
    if isinstance(cause, RaySystemError):
        first = str(cause).splitlines()[0]
        return EngineError(f"a worker cannot read what it was sent ({first}): every machine needs the same modules")
    return cause if isinstance(cause, Exception) else EngineError(str(error))


def _reason(error: RayActorError) -> str:
    """Why a worker died, in a line; Ray says much beside."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "exit" in line or "died" in line), type(error).__name__)
