"""`actframe sites`: what can be captured from a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from actframe.capture.sites import summarise
from actframe.cli import tables
from actframe.cli.console import announce, one_line, print_json, stdout
from actframe.cli.layout_tree import layout_tree
from actframe.cli.options import AsJson

__all__ = ["sites"]

_PROBE_TOKENS = 3


def sites(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A hub id, a folder, a GGUF file, or smollm2.", show_default=False)
    ],
    strategy: Annotated[str, typer.Option("--strategy", metavar="NAME", help="The capture strategy.")] = "hooks",
    tree: Annotated[bool, typer.Option("--tree", help="Print where the sites are, as a tree of modules.")] = False,
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            "--blocks",
            metavar="PATH",
            help="The list of blocks, where it is not found; 'vision.=PATH' for a tower's (may be repeated).",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the sites that can be captured from a model, with their shapes."""
    announce(f"loading {model}")
    from actframe.capture.available import layout_of
    from actframe.runs.models import load_model

    loaded = load_model(model)
    layout = layout_of(loaded.model, blocks=_stacks(blocks))
    if tree:
        _print_tree(loaded.name, loaded.model, layout, as_json=as_json)
    else:
        _print_sites(loaded.name, loaded.model, layout, strategy, as_json=as_json)


def _stacks(blocks: list[str] | None) -> dict[str, str] | None:
    """What `--blocks` means: paths of stacks by site prefix."""
    named = [each.rpartition("=") for each in blocks or ()]
    return {prefix: path for prefix, _, path in named} or None


def _print_tree(name: str, model: Any, layout: Any, *, as_json: bool) -> None:
    from actframe.capture.outline import outline

    found = outline(model, layout)
    if as_json:
        print_json({"model": name, **found})
    else:
        stdout().print(layout_tree(name, found), soft_wrap=True)


def _print_sites(name: str, model: Any, layout: Any, strategy: str, *, as_json: bool) -> None:
    from actframe.capture.available import available_sites, refused_sites

    shapes = _probe(model, layout, available_sites(model, strategy, layout), strategy)
    refused = refused_sites(model, strategy, layout)
    if as_json:
        print_json({"model": name, "strategy": strategy, "sites": shapes, "refused": refused})
        return
    rows = [(each["site"], _shape(each, layout), each["dtype"] or "", None) for each in shapes]
    caption = "Any other module: 'module:<dotted path>', or 'module:<dotted path>@input' for what enters it."
    if layout.beside:
        caption += " Shapes are those for text; a tower beside the language model does not run on it."
    title = f"{len(rows)} sites of {one_line(name)}, strategy '{strategy}'"
    console = stdout()
    console.print(tables.sites_table(title, rows, caption if strategy == "hooks" else None))
    for reason, names in _by_reason(refused).items():
        console.print(Text(f"Not as it is loaded: {summarise(names)}: {reason}"))


def _shape(site: dict[str, Any], layout: Any) -> str:
    """The shape in words, with the axis named that a plain residual stream does not have; nothing where unknown."""
    from actframe.capture.outline import axis_names

    if site["shape"] is None:
        return ""
    names = axis_names(site["site"], layout.places[site["site"]])
    sizes = [
        f"{size} streams" if name == "stream" else str(size) for name, size in zip(names, site["shape"], strict=False)
    ]
    return f"({', '.join(sizes)})"


def _by_reason(refused: dict[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for site, reason in refused.items():
        reasons.setdefault(reason, []).append(site)
    return reasons


def _probe(model: Any, layout: Any, sites: list[str], strategy: str) -> list[dict[str, Any]]:
    """Run the model on a few tokens, because only a forward pass knows every shape.

    Towers that see no tokens do not run, so that the shapes of their sites are not known.
    """
    import torch

    from actframe.capture.recorder import ActivationRecorder

    ids = torch.ones((1, _PROBE_TOKENS), dtype=torch.long, device=model.device)
    inputs = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    fed = [site for site in sites if layout.places[site].tower not in layout.beside]
    with torch.no_grad(), ActivationRecorder(model, fed, strategy=strategy, layout=layout) as recorder:
        model(**inputs)
    tensors = recorder.records[0].activations
    return [_shaped(site, tensors.get(site)) for site in sites]


def _shaped(site: str, tensor: Any) -> dict[str, Any]:
    if tensor is None:
        return {"site": site, "shape": None, "dtype": None}
    return {"site": site, "shape": _axes(site, tensor), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _axes(site: str, tensor: Any) -> list[int | str]:
    """The shape with the axes that depend on the prompt by name."""
    if site.endswith("attn_probs"):
        return [tensor.shape[0], "pos", "pos"]
    return ["pos", *tensor.shape[1:]]
