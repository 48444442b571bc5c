"""The options of `actframe run`, in the panels that its help shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actframe.cli.options import parse_layers, parse_positions, parse_sites

if TYPE_CHECKING:
    from actframe.runs.recording import CaptureSettings

__all__ = [
    "ActivationSaveDir",
    "BatchSize",
    "Benchmark",
    "CaptureActivations",
    "CaptureFlags",
    "Device",
    "Dtype",
    "Layers",
    "Limit",
    "MaxNewTokens",
    "Model",
    "NumTrials",
    "Positions",
    "Seed",
    "Sites",
    "Storage",
    "Strategy",
    "Temperature",
]

_WHAT, _GENERATION, _CAPTURE = "What to run", "Generation", "Activations (with --capture-activations)"


def _option(panel: str, metavar: str, help: str, **more: Any) -> Any:
    return typer.Option(metavar=metavar, help=help, rich_help_panel=panel, **more)


Model = Annotated[str, _option(_WHAT, "MODEL", "A hub id, a folder, a GGUF file, or smollm2.")]
Benchmark = Annotated[str, _option(_WHAT, "NAME", "As `actframe plugins` lists them.")]
NumTrials = Annotated[int, _option(_WHAT, "N", "Answer each question N times (N > 1: set a temperature).", min=1)]
Limit = Annotated[int | None, _option(_WHAT, "N", "Only the first N questions.", min=1, show_default="all")]
Device = Annotated[str | None, _option(_WHAT, "DEVICE", "Where to compute.", show_default="cuda, else cpu")]
ActivationSaveDir = Annotated[Path, _option(_WHAT, "FOLDER", "For results.json, answers.jsonl and activations.")]

BatchSize = Annotated[int, _option(_GENERATION, "N", "How many prompts are computed together.", min=1)]
MaxNewTokens = Annotated[int, _option(_GENERATION, "N", "Where an answer is cut off.", min=1)]
Temperature = Annotated[float, _option(_GENERATION, "T", "0: always the likeliest token.", min=0)]
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
