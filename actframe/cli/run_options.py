"""The options of `actframe run`, in the panels that its help shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actframe.cli.options import parse_bytes, parse_every, parse_layers, parse_positions, parse_sites

if TYPE_CHECKING:
    from actframe.runs.recording import CaptureSettings

__all__ = [
    "ActivationSaveDir",
    "BatchSize",
    "BatchTokens",
    "Benchmark",
    "CaptureActivations",
    "CaptureFlags",
    "CheckUnperturbed",
    "Device",
    "DryRun",
    "Dtype",
    "FlushEvery",
    "Layers",
    "Layout",
    "Limit",
    "MaxDisk",
    "MaxNewTokens",
    "Model",
    "NumTrials",
    "Overwrite",
    "PlaceFlags",
    "Positions",
    "RecordChoices",
    "Seed",
    "ShardBytes",
    "Sites",
    "Storage",
    "Strategy",
    "Temperature",
    "TopP",
]

_WHAT, _GENERATION, _PLACE = "What to run", "Generation", "Where it goes"
_CAPTURE = "Activations (with --capture-activations)"


def _option(panel: str, metavar: str, help: str, **more: Any) -> Any:
    return typer.Option(metavar=metavar, help=help, rich_help_panel=panel, **more)


Model = Annotated[str, _option(_WHAT, "MODEL", "A hub id, a folder, a GGUF file, or smollm2.")]
Benchmark = Annotated[
    str, _option(_WHAT, "NAME", "As `actframe plugins` lists them; NAME:TASK where one has tasks; a file of questions.")
]
NumTrials = Annotated[int, _option(_WHAT, "N", "Answer each question N times (N > 1: set a temperature).", min=1)]
Limit = Annotated[int | None, _option(_WHAT, "N", "Only the first N questions.", min=1, show_default="all")]
Device = Annotated[
    str | None, _option(_WHAT, "DEVICE", "Where to compute; auto: spread over all GPUs.", show_default="cuda, else cpu")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Answer four questions, say what the run takes in disk, memory and time, and write nothing.",
        rich_help_panel=_WHAT,
    ),
]

CheckUnperturbed = Annotated[
    int | None,
    _option(
        _WHAT,
        "K",
        "Answer K questions with and without recording, compare what is computed bit for bit, and write nothing.",
        min=1,
        show_default=False,
    ),
]

BatchSize = Annotated[int, _option(_GENERATION, "N", "How many prompts are computed together at most.", min=1)]
BatchTokens = Annotated[
    int, _option(_GENERATION, "N", "How many tokens are, with those of the answers that there may be.", min=1)
]
MaxNewTokens = Annotated[
    int | None, _option(_GENERATION, "N", "Where an answer is cut off.", min=1, show_default="the benchmark's")
]
Temperature = Annotated[float, _option(_GENERATION, "T", "0: always the likeliest token.", min=0)]
TopP = Annotated[
    float, _option(_GENERATION, "P", "Draw from the likeliest tokens that together have this probability.", max=1)
]
Seed = Annotated[int, _option(_GENERATION, "N", "What a temperature above 0 draws with.", min=0)]

CaptureActivations = Annotated[
    bool, typer.Option("--capture-activations", help="Save what the model computed.", rich_help_panel=_CAPTURE)
]
Layers = Annotated[
    str | None, _option(_CAPTURE, "LIST", "Layers: '0,5,-1' or '0-5'.", show_default="embeddings and all")
]
Sites = Annotated[
    str | None,
    _option(
        _CAPTURE,
        "LIST",
        "Sites, beside the layers: 'embeddings,layer_*.mlp_out'; see `actframe sites`.",
        show_default=False,
    ),
]
Positions = Annotated[
    str | None,
    _option(
        _CAPTURE,
        "POSITIONS",
        "Which positions: all, prompt, response, last_prompt, last, a slice '1:5', or numbers '0,3,-1'.",
        show_default="all",
    ),
]
Dtype = Annotated[str | None, _option(_CAPTURE, "DTYPE", "Cast activations to it.", show_default="as computed")]
RecordChoices = Annotated[
    bool,
    typer.Option(
        "--record-choices",
        help="Where choices are ranked: a record of each as well, with its prompt.",
        rich_help_panel=_CAPTURE,
    ),
]
Strategy = Annotated[
    str | None,
    _option(_CAPTURE, "NAME", "How activations are taken: hooks or output_hidden_states.", show_default="hooks"),
]
Storage = Annotated[
    str | None,
    _option(
        _CAPTURE,
        "NAME",
        "The storage backend, as `actframe plugins` lists them: safetensors, zstd, pickle.",
        show_default="safetensors",
    ),
]


ActivationSaveDir = Annotated[str, _option(_PLACE, "FOLDER", "A folder, or a URL such as s3://bucket/run.")]
Layout = Annotated[
    str,
    _option(_PLACE, "LAYOUT", "store: one store, which can be resumed; files: a named file for each answer."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that is in the folder.", rich_help_panel=_PLACE)
]
MaxDisk = Annotated[
    str | None, _option(_PLACE, "SIZE", "End, resumable, before the run takes more: 50GB.", show_default="no limit")
]
FlushEvery = Annotated[
    str | None,
    _option(_PLACE, "TIME", "What a crash may cost: a time (60s, 5m), or so many answers (500).", show_default="5m"),
]
ShardBytes = Annotated[str | None, _option(_PLACE, "SIZE", "The size of a store's files.", show_default="256MiB")]


@dataclass(frozen=True)
class PlaceFlags:
    """What was said about where the answers go; None where nothing was."""

    layout: str
    overwrite: bool
    max_disk: str | None
    flush_every: str | None
    shard_bytes: str | None

    def settings(self) -> dict[str, Any]:
        """The arguments of `RunSettings` that these mean; a usage error for what cannot be read or would do nothing."""
        of_stores = {"overwrite": self.overwrite, "flush-every": self.flush_every, "shard-bytes": self.shard_bytes}
        given = [name for name, value in of_stores.items() if value not in (None, False)]
        if given and self.layout == "files":
            raise typer.BadParameter(f"--{given[0]} is about a store; leave it out, or --layout files")
        found: dict[str, Any] = {"layout": self.layout}
        if self.max_disk is not None:
            found["max_disk_bytes"] = parse_bytes(self.max_disk)
        if self.shard_bytes is not None:
            found["shard_bytes"] = parse_bytes(self.shard_bytes)
        if self.flush_every is not None:
            found["flush_every"] = parse_every(self.flush_every)
        return found


@dataclass(frozen=True)
class CaptureFlags:
    """What was said about capturing; None where nothing was."""

    layers: str | None
    sites: str | None
    positions: str | None
    dtype: str | None
    strategy: str | None
    storage: str | None

    def check(self, wanted: bool) -> None:
        """Raise a usage error for a list that cannot be read, or a flag that would do nothing."""
        given = [name for name, value in asdict(self).items() if value is not None]
        if given and not wanted:
            raise typer.BadParameter(f"--{given[0]} says what to capture; add --capture-activations, or leave it out")
        parse_layers(self.layers)

    def settings(self) -> CaptureSettings:
        """The settings of a run; heavy libraries are imported here and not before."""
        from actframe.capture.selection import Selection
        from actframe.runs.recording import CaptureSettings

        sites: list[int | str] = [*parse_layers(self.layers), *parse_sites(self.sites)]
        positions: Any = parse_positions(self.positions or "all")
        selection = Selection(sites=sites or None, positions=positions, dtype=self.dtype)
        return CaptureSettings(selection, self.strategy or "hooks", self.storage or "safetensors")
