"""What a benchmark run takes: against the loop that people write by hand, and with recording against without.

    python bench/benchmarks.py [--questions 200] [--rounds 3]

1. `BenchmarkRun` into a store, all layers at the last position of the prompt, over the naive loop: one question at a
   time, `generate(output_hidden_states=True)`, and a `torch.save` for each. Both answer the same multiple-choice
   questions, the bundled ones and generated arithmetic, in float32; the answers must be the same.
2. The same run with recording over the one without, in interleaved rounds.

Printed are questions per second, ratios and their spread; nothing is asserted but that answers are the same. The ratio
of CPU seconds is that of a machine which does nothing else, where threads do not wait for each other: set
OMP_NUM_THREADS=1 where others use it as well.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.table import Table

from actframe import BenchmarkAdapter, Question, Selection
from actframe.benchmarks.answers import extract_choice
from actframe.benchmarks.general import General
from actframe.runs.generation import GenerationSettings
from actframe.runs.models import LoadedModel, load_model
from actframe.runs.plan import RunPlan
from actframe.runs.recording import CaptureSettings
from actframe.runs.run import BenchmarkRun, RunSettings

LETTERS = "ABCD"


class Mixed(BenchmarkAdapter):
    """The bundled questions, and sums with four results to choose from until there are enough."""

    name: ClassVar[str] = "mixed"

    def __init__(self, count: int) -> None:
        self._count = count

    def questions(self) -> Iterable[Question]:
        own = list(General().questions())[: self._count]
        return [*own, *(self._sum(number) for number in range(self._count - len(own)))]

    def prompt(self, question: Question) -> str:
        return General().prompt(question)

    def instruction(self, question: Question, style: str) -> str:
        return ""

    def extract_answer(self, response: str, question: Question) -> str | None:
        return extract_choice(response, question.choices, question.letters)

    @staticmethod
    def _sum(number: int) -> Question:
        draw = random.Random(number)
        first, second = draw.randrange(10, 100), draw.randrange(10, 100)
        right = first + second
        choices = [right, right + 10, right - 1, right + 2]
        draw.shuffle(choices)
        answer = LETTERS[choices.index(right)]
        return Question(f"sum/{number}", f"What is {first} + {second}?", answer, tuple(map(str, choices)))


def run_naively(loaded: LoadedModel, plan: RunPlan, settings: RunSettings, folder: Path) -> dict[str, str]:
    """One question at a time, as it is done without any library."""
    model, tokenizer = loaded.model, loaded.require_tokenizer()
    answers: dict[str, str] = {}
    for number, job in enumerate(plan.jobs):
        ids = torch.tensor([job.input_ids])
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=settings.generation.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                output_hidden_states=True,
                return_dict_in_generate=True,
            )
        answer = str(tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True))
        answers[job.question.id] = answer
        states = [state[0, -1].clone() for state in output.hidden_states[0]]
        torch.save({"question": job.question.id, "answer": answer, "states": states}, folder / f"{number}.pt")
    return answers


def run(loaded: LoadedModel, benchmark: BenchmarkAdapter, settings: RunSettings) -> tuple[float, float, dict[str, str]]:
    """Seconds and CPU seconds of a run into a new store, and its responses."""
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), time.process_time()
        result = BenchmarkRun(loaded, benchmark, folder, settings).execute()
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        return seconds, used, {answer["question_id"]: answer["response"] for answer in result.answers}


def against_the_loop(loaded: LoadedModel, benchmark: Mixed, settings: RunSettings, console: Console) -> None:
    plan = RunPlan(loaded, benchmark, settings)
    seconds, own, ours = run(loaded, benchmark, settings)
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), time.process_time()
        theirs = run_naively(loaded, plan, settings, Path(folder))
        naive, by_hand = time.perf_counter() - began, time.process_time() - cpu
    assert ours == theirs, [(key, ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]][:3]
    columns = ("", "seconds", "questions/s", "ratio", "CPU seconds", "ratio")
    table = Table(*columns, title=f"{len(ours)} questions, the same answers in float32")
    for name, each, used in (("one at a time, by hand", naive, by_hand), ("actframe", seconds, own)):
        row = (
            f"{each:.1f}",
            f"{len(ours) / each:.2f}",
            f"{naive / each:.2f}x",
            f"{used:.1f}",
            f"{by_hand / used:.2f}x",
        )
        table.add_row(name, *row)
    console.print(table)


def overhead(loaded: LoadedModel, benchmark: Mixed, settings: RunSettings, rounds: int, console: Console) -> None:
    plain = replace(settings, capture=None)
    pairs: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []
    for number in range(rounds + 1):
        order = [settings, plain] if number % 2 else [plain, settings]
        taken = {each.capture is None: run(loaded, benchmark, each) for each in order}
        if number:
            pairs.append((taken[False], taken[True]))
    for place, what in enumerate(("seconds", "CPU seconds")):
        ratios = sorted(recorded[place] / without[place] for recorded, without in pairs)
        console.print(
            f"recording over not recording, {rounds} rounds of {len(list(benchmark.questions()))} questions, {what}: "
            f"median {statistics.median(ratios):.3f}, {ratios[0]:.3f} .. {ratios[-1]:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--overhead-questions", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=GenerationSettings().batch_size)
    parser.add_argument("--only", choices=["loop", "overhead"])
    given = parser.parse_args()
    loaded, console = load_model("smollm2", device="cpu", dtype="float32"), Console()
    settings = RunSettings(
        generation=GenerationSettings(max_new_tokens=given.max_new_tokens, batch_size=given.batch_size),
        capture=CaptureSettings(Selection(positions="last_prompt")),
    )
    if given.only != "overhead":
        against_the_loop(loaded, Mixed(given.questions), settings, console)
    if given.only != "loop":
        overhead(loaded, Mixed(given.overhead_questions), settings, given.rounds, console)


if __name__ == "__main__":
    main()
