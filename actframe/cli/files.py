"""Commands that look at activation files: show, stats, compare."""

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
from actframe.cli.overview import show_store
from actframe.cli.store_paths import is_folder, no_record_here

if TYPE_CHECKING:
    from actframe.records.record import ActivationRecord

__all__ = ["compare", "show", "stats"]

_POSITION_HELP = "Where to compare: last_prompt, last, mean (without position 0), or a number."


def show(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="An activation file, or a store (also a URL).", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Show what a file or a store holds: what was asked and answered, the sites, their shapes and sizes.

    Of a store also the run, the accuracy with its interval, and whether it is complete or being written.
    """
    # What is not there was meant as a file if it is named like one.
    if is_folder(path) or not (Path(path).exists() or Path(path).suffix):
        show_store(path, as_json)
    else:
        _show_file(Path(path), as_json)


def _show_file(file: Path, as_json: bool) -> None:
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

    record = _load(file, sites, "stats")
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

    records = [_load(path, sites, "compare") for path in (first, second)]
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


def _load(path: Path, sites: str | None, command: str) -> ActivationRecord:
    if path.is_dir():
        raise no_record_here(path, command)
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
