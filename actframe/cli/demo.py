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
from actframe.cli.run import activation_paths, execute

if TYPE_CHECKING:
    from actframe.records.record import ActivationRecord
    from actframe.runs.run import BenchmarkRun

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
    paths = _answer(job)
    first, second = _load_two(paths)
    _print_step("2. What is in the first file, at every fifth layer")
    _print_stats(first)
    _print_step("3. How alike two prompts look to each layer")
    _print_similarity(first, second)
    _print_step("4. Both as a picture")
    _plot(first, second, output / "demo.png")
    _print_step(f"Done in {time.monotonic() - began:.0f} s. Go on with")
    _print_next(paths, output)


def _prepare(output: Path, limit: int) -> BenchmarkRun:
    from actframe.benchmarks.general import General
    from actframe.runs.generation import GenerationSettings
    from actframe.runs.models import load_model
    from actframe.runs.recording import CaptureSettings
    from actframe.runs.run import BenchmarkRun, RunSettings

    generation = GenerationSettings(max_new_tokens=_TOKENS, batch_size=_BATCH)
    settings = RunSettings(limit=limit, generation=generation, capture=CaptureSettings())
    return BenchmarkRun(load_model(_MODEL), General(), output, settings)


def _answer(job: BenchmarkRun) -> list[Path]:
    """Run, print what came of it, and give the activation files in the order of the questions."""
    result = execute(job)
    paths = activation_paths(job, result.answers)
    console = stdout()
    console.print()
    console.print(tables.answers_table("", result.answers))
    console.print()
    console.print(tables.results_table("", result, by_subject=False))
    console.print()
    print_path(
        job.location, f"{len(paths)} activation files, {decimal(sum(path.stat().st_size for path in paths))}, in "
    )
    return paths


def _print_step(title: str) -> None:
    console = stdout()
    console.print()
    console.print(Rule(Text(title, "bold"), align="left", style="dim"))


def _load_two(paths: list[Path]) -> list[ActivationRecord]:
    """What was saved, as anyone would load it."""
    from actframe.storage.files import load_record

    return [load_record(path) for path in paths[:2]]


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


def _print_next(paths: list[Path], output: Path) -> None:
    first, second = paths[:2]
    keys = '["activations"]["layer_0"].shape'
    code = f"from actframe import load_activations; print(load_activations({json.dumps(str(first))}){keys})"
    smaller, more = output / "smaller.safetensors.zst", output / "arithmetic"
    arithmetic = ["run", "--benchmark", "arithmetic", "--limit", 8, "--activation-save-dir", more]
    print_commands(
        {
            "everything in the first file": actframe_command("show", first),
            "two files at every layer": actframe_command("compare", first, second),
            "the same in a smaller format": actframe_command("convert", first, smaller, "--force"),
            "what else can be captured": actframe_command("sites", _MODEL),
            "another benchmark, three layers": actframe_command(
                *arithmetic, "--capture-activations", "--layers", "10,20,-1"
            ),
            "in Python": python_command("-c", code),
        }
    )
