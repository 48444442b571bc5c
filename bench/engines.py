"""What a second worker brings: questions per second of two Ray workers with a torch thread each, against one worker.

    python bench/engines.py [--questions 200] [--model smollm2] [--workers 2] [--max-new-tokens 24]

The engine `local` with one thread and the engine `ray` answer the same questions into stores, all layers at the last
position of the prompt. The answers must be the same. Printed are questions per second of the whole run, with the start
of Ray and the loading of the model in each worker; and of the work alone, from the first batch that is done on.

Needs `plugins/actframe-ray`, and as many cores as workers that do nothing else.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from benchmarks import Mixed
from rich.console import Console
from rich.table import Table

from actframe import ActivationStore, ExecutionEngine, Selection
from actframe.registry import registry
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel, load_model
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun, RunProgress, RunSettings

BATCH = 8


@dataclass
class Clock:
    """When how many answers were there."""

    began: float = field(default_factory=time.monotonic)
    told: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, now: RunProgress) -> None:
        if not self.told or now.done > self.told[-1][1]:
            self.told.append((time.monotonic(), now.done))

    @property
    def whole(self) -> float:
        """Answers per second since it began."""
        moment, done = self.told[-1]
        return done / (moment - self.began)

    @property
    def working(self) -> float:
        """Answers per second since the first batch was done."""
        (begin, before), (end, done) = next(each for each in self.told if each[1] >= BATCH), self.told[-1]
        return (done - before) / (end - begin)


def execute(loaded: LoadedModel, engine: ExecutionEngine, settings: RunSettings, count: int, folder: Path) -> Clock:
    """One run."""
    run = BenchmarkRun(loaded, Mixed(count), folder, settings, engine=engine)
    clock = Clock()
    result = run.execute(clock)
    assert not result.partial, result.reason
    return clock


def answers(folder: Path) -> dict[str, str]:
    """What a store says that was answered."""
    return {record.question_id: record.response for record in ActivationStore(folder)}


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--questions", type=int, default=200)
    options.add_argument("--model", default="smollm2")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--max-new-tokens", type=int, default=24)
    given = options.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(given.model, device="cpu", dtype="float32")
    generation = GenerationSettings(max_new_tokens=given.max_new_tokens, batch_size=BATCH)
    settings = RunSettings(generation=generation, capture=CaptureSettings(Selection(positions="last_prompt")))
    ray = registry().find(ExecutionEngine, "ray")  # type: ignore[type-abstract]
    several = ray(workers=given.workers, cpus_per_worker=1)  # type: ignore[call-arg]
    local = registry().find(ExecutionEngine, "local")()  # type: ignore[type-abstract]
    table = Table(title=f"{given.questions} questions, {given.model}, one torch thread for each worker")
    for name in ("engine", "whole run, questions/s", "at work, questions/s"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    with tempfile.TemporaryDirectory() as folder:
        one = execute(loaded, local, settings, given.questions, Path(folder, "local"))
        many = execute(loaded, several, settings, given.questions, Path(folder, "ray"))
        same = answers(Path(folder, "local")) == answers(Path(folder, "ray"))
    table.add_row("local", f"{one.whole:.2f}", f"{one.working:.2f}")
    table.add_row(f"ray, {given.workers} workers", f"{many.whole:.2f}", f"{many.working:.2f}")
    table.add_row("ratio", f"{many.whole / one.whole:.2f}x", f"{many.working / one.working:.2f}x")
    Console().print(table)
    Console().print(f"the same answers: {same}")


if __name__ == "__main__":
    main()
