"""The command that runs a benchmark."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.cli import tables
from actframe.cli.console import announce, print_json, print_path, stderr, stdout
from actframe.cli.next_steps import actframe_command, print_commands
from actframe.cli.options import AsJson, parse_layers, parse_positions, parse_sites
from actframe.cli.progress import RunBar
from actframe.errors import SelectionError, SettingsError
from actframe.registry import registry

if TYPE_CHECKING:
    from actframe.runs.recording import CaptureSettings
    from actframe.runs.results import RunResult
    from actframe.runs.run import BenchmarkRun

__all__ = ["activation_paths", "execute", "run"]

_WHAT, _GENERATION, _CAPTURE = "What to run", "Generation", "Activations (with --capture-activations)"
_STORAGE_HELP = "The storage backend, as `actframe plugins` lists them: safetensors, zstd, pickle."
_POSITIONS_HELP = "Which positions: all, prompt, response, last_prompt, last, a slice '1:5', or numbers '0,3,-1'."


def run(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="A hub id, a folder, a GGUF file, or smollm2.", rich_help_panel=_WHAT),
    ] = "smollm2",
    benchmark: Annotated[
        str, typer.Option(metavar="NAME", help="As `actframe plugins` lists them.", rich_help_panel=_WHAT)
    ] = "general",
    num_trials: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Answer each question N times (N > 1: set a temperature).", rich_help_panel=_WHAT
        ),
    ] = 1,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first N questions.", show_default="all", rich_help_panel=_WHAT),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Where to compute.", show_default="cuda, else cpu", rich_help_panel=_WHAT),
    ] = None,
    activation_save_dir: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="For results.json, answers.jsonl and activations.", rich_help_panel=_WHAT),
    ] = Path("activations"),
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="How many prompts are computed together.", rich_help_panel=_GENERATION),
    ] = 8,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Where an answer is cut off.", rich_help_panel=_GENERATION)
    ] = 128,
    temperature: Annotated[
        float, typer.Option(metavar="T", min=0, help="0: always the likeliest token.", rich_help_panel=_GENERATION)
    ] = 0.0,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="What a temperature above 0 draws with.", rich_help_panel=_GENERATION),
    ] = 0,
    capture_activations: Annotated[
        bool, typer.Option("--capture-activations", help="Save what the model computed.", rich_help_panel=_CAPTURE)
    ] = False,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Layers: '0,5,-1' or '0-5'.",
            show_default="embeddings and all",
            rich_help_panel=_CAPTURE,
        ),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Sites, beside the layers: 'embeddings,layer_*.mlp_out'; see `actframe sites`.",
            show_default=False,
            rich_help_panel=_CAPTURE,
        ),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(metavar="POSITIONS", help=_POSITIONS_HELP, show_default="all", rich_help_panel=_CAPTURE),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE", help="Cast activations to it.", show_default="as computed", rich_help_panel=_CAPTURE
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How activations are taken: hooks or output_hidden_states.",
            show_default="hooks",
            rich_help_panel=_CAPTURE,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=_STORAGE_HELP, show_default="safetensors", rich_help_panel=_CAPTURE),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer a benchmark, and record what happens inside it.

    Writes answers.jsonl, a line for each answer as it comes, and results.json.
    With --capture-activations each answer also gets an activation file.
    What an earlier run left in the folder is kept under another name.
    """
    chosen = {"layers": layers, "sites": sites, "positions": positions, "dtype": dtype}
    capture = {**chosen, "strategy": strategy, "storage": storage}
    if not capture_activations and (idle := [name for name, value in capture.items() if value is not None]):
        raise typer.BadParameter(f"--{idle[0]} says what to capture; add --capture-activations, or leave it out")
    selected: list[int | str] = [*parse_layers(layers), *parse_sites(sites)]
    announce(f"loading {model}")
    from actframe.runs.generation import GenerationSettings
    from actframe.runs.models import load_model
    from actframe.runs.run import BenchmarkRun, RunSettings

    with _usage_errors():
        generation = GenerationSettings(max_new_tokens, temperature, seed=seed, batch_size=batch_size)
        recorded = _capture_settings(selected, capture) if capture_activations else None
        settings = RunSettings(num_trials, limit, generation, recorded)
    adapter = registry().find(BenchmarkAdapter, benchmark)()  # type: ignore[type-abstract]
    job = BenchmarkRun(load_model(model, device=device), adapter, activation_save_dir, settings)
    result = execute(job)
    if as_json:
        print_json({"folder": str(job.folder), **result.as_json(), "answers_given": result.answers})
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
            stderr().print(f"{done} finished answers are kept in {job.folder}", soft_wrap=True, markup=False)
        raise


def activation_paths(job: BenchmarkRun, answers: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The activation files of some answers of a run."""
    return [job.folder / answer["activations"] for answer in answers if answer["activations"]]


def _capture_settings(selected: list[int | str], options: dict[str, str | None]) -> CaptureSettings:
    from actframe.capture.selection import Selection
    from actframe.runs.recording import CaptureSettings

    positions: Any = parse_positions(options["positions"] or "all")
    selection = Selection(sites=selected or None, positions=positions, dtype=options["dtype"])
    return CaptureSettings(selection, options["strategy"] or "hooks", options["storage"] or "safetensors")


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
    print_path(job.folder / "results.json")
    print_path(job.folder / "answers.jsonl")
    paths = activation_paths(job, result.answers)
    if not paths:
        return
    size = sum(path.stat().st_size for path in paths)
    print_path(job.folder, f"{len(paths)} activation files, {decimal(size)}, in ")
    console.print("\nGo on with")
    commands = {
        "what is in the first file": actframe_command("show", paths[0]),
        "its activations in numbers": actframe_command("stats", paths[0]),
    }
    if len(paths) > 1:
        commands["how alike the first two are"] = actframe_command("compare", *paths[:2])
    print_commands(commands)
