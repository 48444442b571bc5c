"""Engine `shifts`: one worker at a time, and a new one after so many tasks."""

from dataclasses import dataclass
from itertools import islice

from actframe import ExecutionEngine, engine_option


@dataclass(frozen=True)
class ShiftsEngine(ExecutionEngine):
    name = "shifts"
    in_process = True
    tasks_per_worker: int = engine_option(100, "After how many tasks a new worker begins.", metavar="N")

    def run(self, work, tasks):
        while shift := list(islice(tasks, self.tasks_per_worker)):
            with work.worker() as worker:
                for task in shift:
                    yield from worker.compute(task)
