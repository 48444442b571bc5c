"""The command that runs a benchmark."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.filesize import decimal

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.cli import question_options as asking
from actframe.cli import run_options as options
from actframe.cli import tables
from actframe.cli.console import announce, one_line, print_json, print_path, stderr, stdout
from actframe.cli.engine_options import Engine, chosen_engine, load_for
from actframe.cli.next_steps import actframe_command, print_commands, python_command
from actframe.cli.options import AsJson
from actframe.cli.progress import RunBar, WorkBar
from actframe.cli.result_tables import figures_table
from actframe.cli.unperturbed import print_receipt
from actframe.errors import SelectionError, SettingsError

if TYPE_CHECKING:
    from actframe.runs.models import LoadedModel
    from actframe.runs.results import RunResult
    from actframe.runs.run import BenchmarkRun, RunSettings

__all__ = ["activation_paths", "ending_well", "execute", "run", "usage_errors"]


def run(  # noqa: PLR0913 - typer reads the options from the signature
    context: typer.Context,
    *,
    model: options.Model = "smollm2",
    benchmark: options.Benchmark = "general",
    scoring: asking.ScoringOption = None,
    num_fewshot: asking.NumFewshot = 0,
    prompt_style: asking.PromptStyleOption = "direct",
    system: asking.System = None,
    chat_template: asking.ChatTemplate = "auto",
    data: asking.Data = None,
    split: asking.Split = None,
    subjects: asking.Subjects = None,
    num_trials: options.NumTrials = 1,
    limit: options.Limit = None,
    device: options.Device = None,
    engine: Engine = "local",
    dry_run: options.DryRun = False,
    check_unperturbed: options.CheckUnperturbed = None,
    activation_save_dir: options.ActivationSaveDir = "activations",
    layout: options.Layout = "store",
    overwrite: options.Overwrite = False,
    max_disk: options.MaxDisk = None,
    flush_every: options.FlushEvery = None,
    shard_bytes: options.ShardBytes = None,
    batch_size: options.BatchSize = 64,
    batch_tokens: options.BatchTokens = 16384,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = 0,
    capture_activations: options.CaptureActivations = False,
    layers: options.Layers = None,
    sites: options.Sites = None,
    positions: options.Positions = None,
    dtype: options.Dtype = None,
    record_choices: options.RecordChoices = False,
    strategy: options.Strategy = None,
    storage: options.Storage = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer a benchmark, and record what happens inside it.

    The folder becomes a store with a record for each answer, and gets results.json. Whatever ends the run,
    the same command again goes on where it ended.

    With --layout files it gets answers.jsonl instead, and an activation file for each answer;
    what an earlier run left there is kept under another name.

    Questions that do not fit the model's context are left out, counted and named. Batches that memory
    does not suffice for are halved. What an answer draws depends on the seed, its question and its trial
    alone, not on batches.
    """
    flags = options.CaptureFlags(layers, sites, positions, dtype, strategy, storage)
    flags.check(wanted=capture_activations or check_unperturbed is not None)
    place = options.PlaceFlags(layout, overwrite, max_disk, flush_every, shard_bytes).settings()
    questions = asking.QuestionFlags(data, split, num_fewshot, system, prompt_style, chat_template)
    chosen = asking.parse_subjects(subjects)
    with usage_errors():
        prompting = questions.prompting()
    announce(f"loading {model}")
    from actframe.runs.attempts import check_engine
    from actframe.runs.generation import GenerationSettings
    from actframe.runs.run import BenchmarkRun, RunSettings

    adapter = questions.open(benchmark)
    longest = adapter.max_new_tokens(prompting.style) if max_new_tokens is None else max_new_tokens
    scored = asking.choose_scoring(adapter, scoring)
    with usage_errors():
        generation = GenerationSettings(longest, temperature, top_p, seed, batch_size, batch_tokens)
        capture = flags.settings() if capture_activations or check_unperturbed else None
        more = {"record_choices": record_choices, **place}
        settings = RunSettings(num_trials, limit, generation, capture, prompting, scored, chosen, **more)
    where = chosen_engine(context)
    with usage_errors():
        check_engine(where, settings)
    loaded = load_for(where, model, device)
    if check_unperturbed is not None:
        raise typer.Exit(_check_unperturbed(loaded, adapter, settings, check_unperturbed, as_json))
    job = BenchmarkRun(loaded, adapter, activation_save_dir, settings, overwrite=overwrite, engine=where)
    if dry_run:
        _estimate(job, as_json)
        return
    result = execute(job)
    if as_json:
        answers = [dict(answer) for answer in result.answers]
        print_json({"folder": job.location, **result.as_json(), "answers_given": answers})
    else:
        _report(job, result)
    if result.partial:
        _say_how_to_go_on(job, result, "" if result.failures else "more room")
        raise typer.Exit(1)


def execute(job: BenchmarkRun) -> RunResult:
    """Run with a progress bar; when it ends early, say what is kept and how to go on."""
    try:
        with RunBar("answering") as bar, ending_well(bar):
            result = job.execute(bar)
    except BaseException as error:
        if job.result is not None:
            _say_how_to_go_on(job, job.result)
        for note in getattr(error, "__notes__", ()):
            stderr().print(one_line(note), soft_wrap=True, markup=False)
        raise
    if not result.new and not result.partial:
        total = len(result.answers)
        stderr().print(f"all {total} answers are in {job.folder} already", soft_wrap=True, markup=False)
    return result


def activation_paths(job: BenchmarkRun, answers: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The activation files of some answers of a run with the layout `files`."""
    return [Path(job.folder, answer["activations"]) for answer in answers if answer.get("activations")]


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Settings that make no sense, whatever the model, are mistakes in the command."""
    try:
        yield
    except (SettingsError, SelectionError) as error:
        raise typer.BadParameter(str(error)) from error


@contextlib.contextmanager
def ending_well(bar: WorkBar) -> Iterator[None]:
    """Take a request to end, of the user or of the system, as one to write what is finished; a second one ends that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        restore()
        bar.describe("writing what is finished")
        raise KeyboardInterrupt

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        restore()


def _estimate(job: BenchmarkRun, as_json: bool) -> None:
    from actframe.runs.estimate import estimate_run

    announce("answering a few questions")
    estimate = estimate_run(job)
    if as_json:
        print_json({"folder": job.location, **estimate.as_json()})
    else:
        stdout().print(tables.estimate_table(f"{job.benchmark.name}, answered by {job.model.name}", estimate))


def _check_unperturbed(
    model: LoadedModel, adapter: BenchmarkAdapter, settings: RunSettings, count: int, as_json: bool
) -> int:
    """Print the receipt; the exit code."""
    from actframe.runs.unperturbed import check_unperturbed

    announce(f"answering {count} questions with and without recording")
    receipt = check_unperturbed(model, adapter, settings, count)
    if as_json:
        print_json(receipt.as_json())
    else:
        print_receipt(f"{adapter.name}, answered by {model.name}", receipt)
    return 0 if receipt.is_unperturbed else 1


def _say_how_to_go_on(job: BenchmarkRun, result: RunResult, needed: str = "") -> None:
    """What of an unfinished run is kept, in a line, and how it goes on."""
    done, total = (result.circumstances["answers"][each] for each in ("done", "total"))
    lines = [f"{done} of {total} answers are kept in {job.folder}"]
    if (summary := result.summary) is not None:
        lines[0] += f", accuracy {summary.accuracy:.1%} ({summary.low:.1%} - {summary.high:.1%})"
    if result.failures:
        lines.insert(0, f"left out: {result.reason}")
    elif result.reason and needed:
        lines.insert(0, f"ended early: {result.reason}")
    if job.settings.layout == "store":
        changes = [f"with {needed}"] if needed else []
        changes += ["without --overwrite"] if job.overwrites else []
        lines.append(
            ", ".join(["the same command again", *changes]) + (", " if changes else " ") + "goes on from there"
        )
    for line in lines:
        stderr().print(line, soft_wrap=True, markup=False)


def _report(job: BenchmarkRun, result: RunResult) -> None:
    console = stdout()
    console.print(tables.results_table(f"{job.benchmark.name}, answered by {job.model.name}", result))
    console.print()
    console.print(figures_table({"": result}))
    console.print()
    if job.settings.layout == "store":
        _report_store(job, result)
    else:
        _report_files(job, result)


def _report_store(job: BenchmarkRun, result: RunResult) -> None:
    size = decimal(job.layout.written().bytes_on_disk)
    what = "answers and their activations" if job.settings.capture else "answers"
    if choices := job.plan.recorded_choices:
        what = f"answers, {choices} choices and their activations"
    print_path(job.folder, f"{len(result.answers)} {what}, {size}, in the store ")
    opened = f"from actframe import ActivationStore; store = ActivationStore({json.dumps(job.folder)})"
    commands = {"what is in the store": actframe_command("show", job.folder)}
    if result.answers:
        wrong = "print(*(each.question_id for each in store.where(correct=False)))"
        commands["which answers are wrong"] = python_command("-c", f"{opened}; {wrong}")
    if job.settings.capture and result.answers:
        site = job.settings.capture.recorder(job.model, into=[]).sites[-1]
        chosen = 'store.where(lambda each: "choice" not in each)' if choices else "store"
        stacked = f'print({chosen}.stack({json.dumps(site)}, positions="last").shape)'
        commands["the last position of each in one tensor"] = python_command("-c", f"{opened}; {stacked}")
    stdout().print("\nGo on with")
    print_commands(commands)


def _report_files(job: BenchmarkRun, result: RunResult) -> None:
    print_path(Path(job.folder, "results.json"))
    print_path(Path(job.folder, "answers.jsonl"))
    paths = activation_paths(job, result.answers)
    if not paths:
        return
    size = sum(path.stat().st_size for path in paths)
    print_path(job.folder, f"{len(paths)} activation files, {decimal(size)}, in ")
    stdout().print("\nGo on with")
    commands = {
        "what is in the first file": actframe_command("show", paths[0]),
        "its activations in numbers": actframe_command("stats", paths[0]),
    }
    if len(paths) > 1:
        commands["how alike the first two are"] = actframe_command("compare", *paths[:2])
    print_commands(commands)
