"""The command that runs a benchmark."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.filesize import decimal

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.cli import run_options as options
from actframe.cli import tables
from actframe.cli.console import announce, print_json, print_path, stderr, stdout
from actframe.cli.next_steps import actframe_command, print_commands
from actframe.cli.options import AsJson
from actframe.cli.progress import RunBar
from actframe.errors import SelectionError, SettingsError
from actframe.registry import registry

if TYPE_CHECKING:
    from actframe.runs.results import RunResult
    from actframe.runs.run import BenchmarkRun

__all__ = ["activation_paths", "execute", "run"]


def run(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    model: options.Model = "smollm2",
    benchmark: options.Benchmark = "general",
    num_trials: options.NumTrials = 1,
    limit: options.Limit = None,
    device: options.Device = None,
    activation_save_dir: options.ActivationSaveDir = Path("activations"),
    batch_size: options.BatchSize = 8,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    capture_activations: options.CaptureActivations = False,
    layers: options.Layers = None,
    sites: options.Sites = None,
    positions: options.Positions = None,
    dtype: options.Dtype = None,
    strategy: options.Strategy = None,
    storage: options.Storage = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer a benchmark, and record what happens inside it.

    Writes answers.jsonl, a line for each answer as it comes, and results.json.
    With --capture-activations each answer also gets an activation file.
    What an earlier run left in the folder is kept under another name.
    """
    flags = options.CaptureFlags(layers, sites, positions, dtype, strategy, storage)
    flags.check(wanted=capture_activations)
    announce(f"loading {model}")
    from actframe.runs.generation import GenerationSettings
    from actframe.runs.models import load_model
    from actframe.runs.run import BenchmarkRun, RunSettings

    with _usage_errors():
        generation = GenerationSettings(max_new_tokens, temperature, seed=seed, batch_size=batch_size)
        capture = flags.settings() if capture_activations else None
        settings = RunSettings(num_trials, limit, generation, capture)
    adapter = registry().find(BenchmarkAdapter, benchmark)()  # type: ignore[type-abstract]
    job = BenchmarkRun(load_model(model, device=device), adapter, activation_save_dir, settings)
    result = execute(job)
    if as_json:
        print_json({"folder": job.location, **result.as_json(), "answers_given": result.answers})
    else:
        _report(job, result)


def execute(job: BenchmarkRun) -> RunResult:
    """Run with a progress bar; when it ends early, say where the finished answers are."""
    done = 0

    def show(now: Any) -> None:
        nonlocal done
        done = now.done
        bar(now)

    try:
        with RunBar("answering") as bar:
            return job.execute(show)
    except BaseException:
        if done:
            stderr().print(f"{done} finished answers are kept in {job.location}", soft_wrap=True, markup=False)
        raise


def activation_paths(job: BenchmarkRun, answers: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The activation files of some answers of a run."""
    return [Path(job.location, answer["activations"]) for answer in answers if answer["activations"]]


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Settings that make no sense, whatever the model, are mistakes in the command."""
    try:
        yield
    except (SettingsError, SelectionError) as error:
        raise typer.BadParameter(str(error)) from error


def _report(job: BenchmarkRun, result: RunResult) -> None:
    console = stdout()
    console.print(tables.results_table(f"{job.benchmark.name}, answered by {job.model.name}", result))
    console.print()
    print_path(Path(job.location, "results.json"))
    print_path(Path(job.location, "answers.jsonl"))
    paths = activation_paths(job, result.answers)
    if not paths:
        return
    size = sum(path.stat().st_size for path in paths)
    print_path(job.location, f"{len(paths)} activation files, {decimal(size)}, in ")
    console.print("\nGo on with")
    commands = {
        "what is in the first file": actframe_command("show", paths[0]),
        "its activations in numbers": actframe_command("stats", paths[0]),
    }
    if len(paths) > 1:
        commands["how alike the first two are"] = actframe_command("compare", *paths[:2])
    print_commands(commands)
