"""Commands that look at activation files: show, stats, compare, convert."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from actframe.cli import tables
from actframe.cli.console import print_json, print_path, print_prompt, stdout
from actframe.cli.options import AsJson, RecordPath, SitesOption, parse_sites
from actframe.errors import StorageError

if TYPE_CHECKING:
    from actframe.records.record import ActivationRecord

__all__ = ["compare", "convert", "show", "stats"]

_POSITION_HELP = "Where to compare: last_prompt, last, mean (without position 0), or a number."


def show(file: RecordPath, as_json: AsJson = False) -> None:
    """Show what a file holds: what was asked and answered, the sites, their shapes and sizes."""
    from actframe.storage.files import backend_for, load_record

    record = load_record(file)
    sites = [_describe_site(site, tensor) for site, tensor in record.activations.items()]
    tensor_bytes = sum(site["bytes"] for site in sites)
    summary = {
        "path": str(file),
        "format": backend_for(file).name,
        "file_bytes": file.stat().st_size,
        "tensor_bytes": tensor_bytes,
        "ratio": tensor_bytes / file.stat().st_size,
    }
    if as_json:
        print_json({**summary, "record": _metadata(record), "sites": sites})
        return
    size = f"{decimal(summary['file_bytes'])} on disk, {decimal(tensor_bytes)} of tensors ({summary['ratio']:.2f}x)"
    console = stdout()
    print_path(file)
    console.print(tables.facts_table("", {"format": summary["format"], "size": size, **_facts(record)}))
    console.print()
    rows = [(site["site"], _shape(site["shape"]), site["dtype"], site["bytes"]) for site in sites]
    console.print(tables.sites_table("Sites", rows))


def stats(file: RecordPath, sites: SitesOption = None, as_json: AsJson = False) -> None:
    """Describe each site in numbers: mean, spread, norms, largest values and where they are."""
    from actframe.analysis.stats import record_stats

    record = _load(file, sites)
    results = record_stats(record)
    if as_json:
        print_json({"path": str(file), "sites": [dataclasses.asdict(result) for result in results]})
        return
    stdout().print(tables.stats_table(f"Statistics of {file.name}", results))


def compare(
    first: Annotated[Path, typer.Argument(metavar="FILE_A", help="An activation file.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="FILE_B", help="Another one.", show_default=False)],
    position: Annotated[str, typer.Option("--position", metavar="POSITION", help=_POSITION_HELP)] = "last_prompt",
    sites: SitesOption = None,
    as_json: AsJson = False,
) -> None:
    """Compare two recorded sequences, site by site: cosine similarity at one position, CKA over all shared ones."""
    from actframe.analysis.similarity import compare_records

    records = [_load(path, sites) for path in (first, second)]
    results = compare_records(records[0], records[1], int(position) if position.isdecimal() else position)
    if as_json:
        similarities = [dataclasses.asdict(result) for result in results]
        print_json({"first": str(first), "second": str(second), "position": position, "sites": similarities})
        return
    console = stdout()
    for label, record in zip("AB", records, strict=True):
        print_prompt(label, record.get("prompt"))
    console.print()
    console.print(tables.similarity_table("Similarity", results, position))


def convert(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="The file to read.", show_default=False)],
    target: Annotated[
        Path, typer.Argument(metavar="NEW_FILE", help="What to write; its suffix is the format.", show_default=False)
    ],
    sites: SitesOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace NEW_FILE if it exists.")] = False,
) -> None:
    """Write a file again in another format, or with fewer sites. Tensors are kept bit for bit."""
    from actframe.storage.files import check_can_save, save_activations

    check_can_save(target)
    if target.exists() and not force:
        raise StorageError(f"{target} exists; use --force to replace it")
    save_activations(_load(source, sites), target)
    before, after = source.stat().st_size, target.stat().st_size
    print_path(target, "wrote ")
    stdout().print(f"{decimal(after)}, from {decimal(before)}")


def _load(path: Path, sites: str | None) -> ActivationRecord:
    from actframe.storage.files import load_record

    return load_record(path, sites=parse_sites(sites) or None)


def _describe_site(site: str, tensor: Any) -> dict[str, Any]:
    return {
        "site": site,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "bytes": tensor.numel() * tensor.element_size(),
    }


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "activations"}


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata for reading: long lists become what they say."""
    facts = {key: value for key, value in _metadata(record).items() if key not in ("sites", "site_positions")}
    for key in ("input_ids", "output_ids"):
        if isinstance(facts.get(key), list):
            facts[key] = f"{len(facts[key])} tokens"
    if isinstance(facts.get("positions"), list):
        facts["positions"] = _positions(facts["positions"], facts.get("prompt_length"))
    return {key: "-" if value is None else value for key, value in facts.items()}


def _positions(positions: list[int], prompt_length: int | None) -> str:
    if not positions:
        return "none"
    consecutive = positions == list(range(positions[0], positions[-1] + 1))
    shown = f"{positions[0]} to {positions[-1]}" if consecutive else ", ".join(map(str, positions[:20]))
    prompt = sum(position < (prompt_length or 0) for position in positions)
    return f"{shown} ({prompt} of the prompt, {len(positions) - prompt} of the response)"


def _shape(shape: list[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
