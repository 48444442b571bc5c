"""The command that captures texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.filesize import decimal
from rich.table import Table

from actframe.cli import capture_options as options
from actframe.cli.console import announce, one_line, print_json, print_path, stderr, stdout
from actframe.cli.engine_options import Engine, chosen_engine, load_for
from actframe.cli.next_steps import actframe_command, print_commands, python_command
from actframe.cli.options import AsJson
from actframe.cli.progress import TextBar
from actframe.cli.run import ending_well, usage_errors
from actframe.cli.run_options import ActivationSaveDir, CaptureFlags, Device, MaxDisk, Model, PlaceFlags, ShardBytes
from actframe.cli.tables import duration, new_table

if TYPE_CHECKING:
    from actframe.runs.text_estimate import TextEstimate
    from actframe.runs.text_run import TextRun, TextRunResult

__all__ = ["capture"]


def capture(  # noqa: PLR0913 - typer reads the options from the signature
    context: typer.Context,
    *,
    data: options.Data,
    field: options.Field = None,
    prompt_field: options.PromptField = None,
    response_field: options.ResponseField = None,
    drop_fields: options.DropFields = None,
    split: options.Split = None,
    config: options.Config = None,
    limit: options.Limit = None,
    chat_template: options.ChatTemplate = "auto",
    too_long: options.TooLong = "error",
    empty: options.Empty = "error",
    model: Model = "smollm2",
    device: Device = None,
    engine: Engine = "local",
    batch_tokens: options.BatchTokens = 8192,
    dry_run: options.DryRun = False,
    layers: options.Layers = None,
    sites: options.Sites = None,
    positions: options.Positions = None,
    dtype: options.Dtype = None,
    storage: options.Storage = None,
    activation_save_dir: ActivationSaveDir = "activations",
    overwrite: options.Overwrite = False,
    max_disk: MaxDisk = None,
    flush_every: options.FlushEvery = None,
    shard_bytes: ShardBytes = None,
    as_json: AsJson = False,
) -> None:
    """Record what a model computes of texts that are there already.

    Texts alone, or prompts with responses that were written elsewhere: nothing is generated, and nothing above the
    last selected layer is computed. The folder becomes a store with a record for each row, which has the other fields
    of its row. Whatever ends it, the same command again goes on where it ended.
    """
    flags = CaptureFlags(layers, sites, positions, dtype, None, storage)
    flags.check(wanted=True)
    place = PlaceFlags("store", overwrite, max_disk, flush_every, shard_bytes).settings()
    chat = {"auto": None, "on": True, "off": False}[
        options.one_of("chat-template", chat_template, ("auto", "on", "off"))
    ]
    skipping = {
        name.replace("-", "_"): options.one_of(name, value, ("error", "skip"))
        for name, value in (("too-long", too_long), ("empty", empty))
    }
    where = chosen_engine(context)
    announce(f"loading {model}")
    from actframe.runs.attempts import check_engine
    from actframe.runs.settings import RunSettings
    from actframe.runs.text_data import TextData, TextFields
    from actframe.runs.text_run import TextRun, TextSettings

    with usage_errors():
        fields = TextFields(field, prompt_field, response_field, options.parse_fields(drop_fields))
        texts = TextData(data, fields, split=split, configuration=config, limit=limit)
        store = RunSettings(capture=flags.settings(), **place)
        settings = TextSettings(store, batch_tokens, chat, **skipping)  # type: ignore[arg-type]
        check_engine(where, store)
    loaded = load_for(where, model, device)
    job = TextRun(loaded, texts, activation_save_dir, settings, overwrite=overwrite, engine=where)
    if dry_run:
        _estimate(job, as_json)
        return
    result = _execute(job)
    if as_json:
        print_json({"folder": job.location, "sites": job.batches.sites, **result.as_json()})
    else:
        _report(job, result)
    if result.partial:
        _say_how_to_go_on(job, result, "" if result.failures else "more room")
        raise typer.Exit(1)


def _execute(job: TextRun) -> TextRunResult:
    """Run with a progress bar; when it ends early, say what is kept and how to go on."""
    try:
        with TextBar("looking at the texts") as bar, ending_well(bar):
            survey = job.survey(bar.look)
            bar.describe("capturing")
            result = job.execute(bar)
    except BaseException as error:
        if job.result is not None:
            _say_how_to_go_on(job, job.result)
        for note in getattr(error, "__notes__", ()):
            stderr().print(one_line(note), soft_wrap=True, markup=False)
        raise
    if survey.skipped:
        stderr().print(survey.describe_skipped(), soft_wrap=True, markup=False)
    if not result.new and not result.partial:
        stderr().print(f"all {result.records} records are in {job.folder} already", soft_wrap=True, markup=False)
    return result


def _say_how_to_go_on(job: TextRun, result: TextRunResult, needed: str = "") -> None:
    """What of unfinished work is kept, in a line, and how it goes on."""
    if result.failures:
        stderr().print(f"left out: {result.reason}", soft_wrap=True, markup=False)
    elif result.reason and needed:
        stderr().print(f"ended early: {result.reason}", soft_wrap=True, markup=False)
    kept = f"{result.records} of {result.survey.fitting} records are kept in {job.folder}"
    changes = [f"with {needed}"] if needed else []
    changes += ["without --overwrite"] if job.overwrites else []
    how = ", ".join(["the same command again", *changes]) + (", " if changes else " ") + "goes on from there"
    for line in (kept, how):
        stderr().print(line, soft_wrap=True, markup=False)


def _report(job: TextRun, result: TextRunResult) -> None:
    now = result.progress
    speed = f", {now.tokens_per_second:.0f} tokens/s" if now.tokens else ""
    stdout().print(
        f"{result.records} of {result.texts} texts captured by {job.model.name}, {_sites(job)}{speed}",
        soft_wrap=True,
        markup=False,
    )
    print_path(job.folder, f"{decimal(now.written.bytes_on_disk)}, in the store ")
    opened = f"from actframe import ActivationStore; store = ActivationStore({json.dumps(job.folder)})"
    site = json.dumps(job.batches.sites[-1])
    commands: dict[str, list[str]] = {"what is in the store": actframe_command("show", job.folder)}
    if result.records:
        commands["the last position of each text in one tensor"] = python_command(
            "-c", f'{opened}; print(store.stack({site}, positions="last").shape)'
        )
    stdout().print("\nGo on with")
    print_commands(commands)


def _sites(job: TextRun) -> str:
    from actframe.capture.sites import summarise

    return summarise(job.batches.sites)


def _estimate(job: TextRun, as_json: bool) -> None:
    from actframe.runs.text_estimate import estimate_texts

    announce("looking at the texts, and computing a few")
    estimate = estimate_texts(job)
    if as_json:
        print_json({"folder": job.location, **estimate.as_json()})
    else:
        stdout().print(_table(f"{job.data.source}, captured by {job.model.name}", estimate))


def _table(title: str, estimate: TextEstimate) -> Table:
    """What it takes, and what is there."""
    table = new_table(title, "", "expected", right=("expected",), caption=f"From {estimate.sampled} texts.")
    rows: list[tuple[str, Any]] = [
        ("texts to compute", f"{estimate.texts:,} of {estimate.total:,}"),
        ("  skipped", f"{estimate.skipped:,}" if estimate.skipped else None),
        ("tokens", f"{estimate.tokens:,}"),
        ("activations of a token", decimal(estimate.token_bytes)),
        ("compressed by", f"{estimate.ratio:.2f}x"),
        ("disk", decimal(estimate.disk_bytes)),
        ("  free", None if estimate.disk_free is None else decimal(estimate.disk_free)),
        ("  left of --max-disk", None if estimate.disk_allowed is None else decimal(estimate.disk_allowed)),
        ("time", f"about {duration(estimate.seconds)}"),
    ]
    for label, value in rows:
        if value is not None:
            table.add_row(label, value)
    return table
