"""All the classes at once, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from zoo.classes import families
from zoo.outcome import Outcome, try_class


def sweep(kinds: Iterable[str] | None = None, workers: int | None = None) -> dict[str, list[Outcome]]:
    """What came of each class, by model type."""
    every = families()
    chosen = list(every) if kinds is None else list(kinds)
    # The largest first, so that no process ends long after the others.
    order = sorted(chosen, key=lambda kind: -len(every[kind]))
    count = workers or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), prepare) as pool:
        done = dict(zip(order, pool.map(try_family, order, [every[kind] for kind in order]), strict=True))
    return {kind: done[kind] for kind in chosen}


def try_family(kind: str, names: list[str]) -> list[Outcome]:
    return [try_class(kind, name) for name in names]


def prepare() -> None:
    """One thread and no chatter in each process."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
