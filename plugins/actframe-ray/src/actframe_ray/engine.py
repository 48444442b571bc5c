"""RayEngine: the tasks of a run, done by Ray actors that each load the model once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

from actframe import ExecutionEngine, Outcome, SettingsError, Task, Work, engine_option

__all__ = ["RayEngine"]


@dataclass(frozen=True)
class RayEngine(ExecutionEngine):
    """Workers of a Ray cluster: of one that runs, or of one on this machine that lasts as long as the run.

    Where this process is connected to Ray already, that is what is used.
    """

    name: ClassVar[str] = "ray"
    built_for: ClassVar[int] = 1

    workers: int = engine_option(2, "How many workers. Each loads the model.", metavar="N")
    gpus_per_worker: float | None = engine_option(
        None, "How many GPUs each has; 0.5 lets two share one. Default: 1 where there are any.", metavar="N"
    )
    cpus_per_worker: int | None = engine_option(
        None,
        "How many cores each has, and torch threads. Default: an equal share of this machine; 1 on a cluster.",
        metavar="N",
    )
    ray_address: str | None = engine_option(
        None,
        "A cluster that runs: auto, HOST:PORT or ray://HOST:PORT. Default: Ray on this machine.",
        metavar="ADDRESS",
    )

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"workers is {self.workers}; it must be at least 1")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise SettingsError(f"cpus_per_worker is {self.cpus_per_worker}; it must be at least 1")
        gpus = self.gpus_per_worker
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise SettingsError(f"gpus_per_worker is {gpus}; it must be 0, a part of one, or a whole number")

    @property
    def share_of_this_machine(self) -> int:
        """How many cores a worker gets where all are on this machine."""
        # Not every system says which cores are this process's.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.cpus_per_worker or max(1, cores // self.workers)

    def run(self, work: Work, tasks: Iterator[Task]) -> Generator[Outcome]:
        """As the contract says."""
        if (first := next(tasks, None)) is None:
            return
        # Ray takes a second to import.
        from actframe_ray.cluster import connected
        from actframe_ray.pool import Pool

        with connected(self) as resources, closing(Pool(work, resources, self.workers)) as pool:
            yield from pool.run(itertools.chain([first], tasks))
