"""The command that shows the main job end to end."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.rule import Rule
from rich.text import Text

from actframe.cli import tables
from actframe.cli.console import announce, print_path, print_prompt, stdout
from actframe.cli.next_steps import actframe_command, print_commands, python_command
from actframe.cli.run import execute

if TYPE_CHECKING:
    from actframe.records.record import ActivationRecord
    from actframe.runs.run import BenchmarkRun
    from actframe.storage.store import ActivationStore

__all__ = ["demo"]

_MODEL, _BATCH, _TOKENS, _EVERY = "smollm2", 4, 48, 5


def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the demo writes.")] = Path("actframe-demo"),
    limit: Annotated[int, typer.Option(metavar="N", min=2, help="How many questions are answered.")] = 12,
) -> None:
    """Let the embedded model answer a dozen questions, record it, and look at what was recorded.

    Takes less than a minute, and half a minute more the first time, when the model is converted.
    """
    began = time.monotonic()
    announce(f"loading {_MODEL}")
    job = _prepare(output, limit)
    _print_step(f"1. {_MODEL} answers {limit} questions, and every layer is recorded")
    store = _answer(job)
    first, second = (store.where(question_id=question.id)[0] for question in job.plan.questions[:2])
    _print_step("2. What is in the first record, at every fifth layer")
    _print_stats(first)
    _print_step("3. How alike two prompts look to each layer")
    _print_similarity(first, second)
    _print_step("4. Both as a picture")
    _plot(first, second, output / "demo.png")
    _print_step(f"Done in {time.monotonic() - began:.0f} s. Go on with")
    _print_next(job.folder, output)


def _prepare(output: Path, limit: int) -> BenchmarkRun:
    from actframe.benchmarks.general import General
    from actframe.runs.generation import GenerationSettings
    from actframe.runs.models import load_model
    from actframe.runs.recording import CaptureSettings
    from actframe.runs.run import BenchmarkRun, RunSettings

    generation = GenerationSettings(max_new_tokens=_TOKENS, batch_size=_BATCH)
    settings = RunSettings(limit=limit, generation=generation, capture=CaptureSettings())
    # A folder that nobody but the demo writes to, so that it can begin anew each time.
    return BenchmarkRun(load_model(_MODEL), General(), output / "demo-store", settings, overwrite=True)


def _answer(job: BenchmarkRun) -> ActivationStore:
    """Run, print what came of it, and open the store."""
    from actframe.storage.store import ActivationStore

    result = execute(job)
    console = stdout()
    console.print()
    console.print(tables.answers_table("", result.answers))
    console.print()
    console.print(tables.results_table("", result, by_subject=False))
    console.print()
    store = ActivationStore(job.location)
    size = decimal(store.bytes_on_disk)
    print_path(job.folder, f"{len(store)} answers and their activations, {size}, in the store ")
    return store


def _print_step(title: str) -> None:
    console = stdout()
    console.print()
    console.print(Rule(Text(title, "bold"), align="left", style="dim"))


def _print_stats(record: ActivationRecord) -> None:
    from actframe.analysis.stats import record_stats

    console = stdout()
    print_prompt("A", record.get("prompt"))
    console.print()
    console.print(tables.stats_table("", _thinned(record_stats(record))))


def _print_similarity(first: ActivationRecord, second: ActivationRecord) -> None:
    from actframe.analysis.similarity import compare_records

    console = stdout()
    for label, record in zip("AB", (first, second), strict=True):
        print_prompt(label, record.get("prompt"))
    console.print()
    console.print(tables.similarity_table("", _thinned(compare_records(first, second)), "last_prompt"))


def _thinned(results: list[Any]) -> list[Any]:
    """The embeddings, every fifth layer, and the last."""
    return [each for at, each in enumerate(results) if at == 0 or (at - 1) % _EVERY == 0 or at == len(results) - 1]


def _plot(first: ActivationRecord, second: ActivationRecord, path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        stdout().print('left out: it needs matplotlib; pip install "actframe[plot]"', markup=False)
        return
    from actframe.analysis.plots import save_overview

    print_path(save_overview(first, second, path))


def _print_next(store: str, output: Path) -> None:
    opened = f"from actframe import ActivationStore; store = ActivationStore({json.dumps(store)})"
    wrong = "print(*(each.question_id for each in store.where(correct=False)))"
    stacked = 'print(store.stack("layer_20", positions="last_prompt").shape)'
    arithmetic = ["run", "--benchmark", "arithmetic", "--limit", 8, "--activation-save-dir", output / "arithmetic"]
    print_commands(
        {
            "which answers are wrong": python_command("-c", f"{opened}; {wrong}"),
            "a layer of all answers, in one tensor": python_command("-c", f"{opened}; {stacked}"),
            "what else can be captured": actframe_command("sites", _MODEL),
            "another benchmark, three layers": actframe_command(
                *arithmetic, "--capture-activations", "--layers", "10,20,-1"
            ),
        }
    )
