"""The Ray cluster that a run uses, and what of it each worker gets."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray._private import worker as ray_worker

from actframe import EngineError

if TYPE_CHECKING:
    from actframe_ray.engine import RayEngine

__all__ = ["Resources", "connected"]


@dataclass(frozen=True)
class Resources:
    """What a worker gets.

    Attributes:
        cpus: cores, and torch threads.
        gpus: GPUs, or a part of one.
    """

    cpus: int
    gpus: float


@contextmanager
def connected(engine: RayEngine) -> Iterator[Resources]:
    """Be connected to Ray in this block; gives what each worker gets.

    Raises:
        EngineError: there is no cluster at the address, or it is too small for one worker.
    """
    if ray.is_initialized():
        yield _resources(engine, engine.cpus_per_worker or 1)
        return
    here = engine.ray_address is None
    own: dict[str, Any] = {"address": engine.ray_address}
    if here:
        # Nobody else is to reach it; and Ray counts cores that are promised, not those that are there.
        cores = engine.workers * engine.share_of_this_machine
        own = {"address": "local", "num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with _own_signals():
        try:
            ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = "on this machine" if here else f"at {engine.ray_address!r}"
            raise EngineError(f"cannot connect to Ray {where}: {' '.join(str(error).split())}") from error
    # Ray prints what its own processes say to stdout, which belongs to the results of a command; a run says it itself.
    ray_worker._worker_logs_enabled = False
    try:
        yield _resources(engine, engine.share_of_this_machine if here else engine.cpus_per_worker or 1)
    finally:
        ray.shutdown()
        ray_worker._worker_logs_enabled = True


def _resources(engine: RayEngine, cpus: int) -> Resources:
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = engine.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if there.get("GPU") else 0.0
    for kind, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > (found := there.get(kind, 0)):
            option = f"--{kind.lower()}s-per-worker"
            raise EngineError(f"a worker is to have {wanted:g} {kind}s ({option}), and the Ray cluster has {found:g}")
    return Resources(cpus, gpus)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it begins; whoever had it gets it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
