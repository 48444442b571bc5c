"""The command that writes files and stores again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from actframe.cli import store_tables
from actframe.cli.console import print_json, print_path, stdout
from actframe.cli.options import AsJson, SitesOption, parse_positions, parse_sites
from actframe.cli.store_paths import is_folder, open_folder
from actframe.cli.stores import report_rewritten, resumable
from actframe.errors import SelectionError, StorageError, UnknownNameError

__all__ = ["DtypeOption", "PositionsOption", "convert", "cut_errors"]

PositionsOption = Annotated[
    str,
    typer.Option(
        "--positions",
        metavar="POSITIONS",
        help="Of a store, only these rows: all, prompt, response, last_prompt, last, a slice '1:5', or '0,3'.",
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype", metavar="DTYPE", help="Of a store: cast activations to it.", show_default="as they are stored"
    ),
]


def convert(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="An activation file, or a store.", show_default=False)
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A new file, whose suffix is the format; or a new store.",
            show_default=False,
        ),
    ],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="NAME",
            help="The storage backend of the new store, as `actframe plugins` lists them.",
            show_default="that of the store",
        ),
    ] = None,
    sites: SitesOption = None,
    positions: PositionsOption = "all",
    dtype: DtypeOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a file or a store again: in another format, with fewer sites; stores also with fewer positions, or cast.

    What is kept is kept bit for bit, unless it is cast. A store stays as it is, and is written shard by shard:
    when that is interrupted, the same command again goes on where it ended.
    """
    if is_folder(source):
        if force:
            raise typer.BadParameter(
                "a store is never replaced; leave it out, and give a new folder", param_hint="--force"
            )
        _convert_store(source, target, storage, sites, positions, dtype, as_json)
        return
    given = {"--storage": storage, "--positions": None if positions == "all" else positions, "--dtype": dtype}
    for name, value in given.items():
        if value is not None:
            said = "the suffix of TARGET says the format of a file" if name == "--storage" else "it is for stores"
            raise typer.BadParameter(said, param_hint=name)
    _convert_file(Path(source), Path(target), sites, force, as_json)


@contextlib.contextmanager
def cut_errors() -> Iterator[None]:
    """A selection that makes no sense, whatever the store, is a mistake in the command."""
    try:
        yield
    except SelectionError as error:
        raise typer.BadParameter(str(error)) from error


def _convert_file(source: Path, target: Path, sites: str | None, force: bool, as_json: bool) -> None:
    from actframe.storage.files import check_can_save, load_record, save_activations

    check_can_save(target)
    if target.exists() and not force:
        raise StorageError(f"{target} exists; use --force to replace it")
    save_activations(load_record(source, sites=parse_sites(sites) or None), target)
    before, after = source.stat().st_size, target.stat().st_size
    if as_json:
        print_json({"location": str(target), "bytes_before": before, "bytes_after": after, "ratio": before / after})
        return
    print_path(target, "wrote ")
    stdout().print(store_tables.sizes(after, before))


def _convert_store(
    source: str, target: str, storage: str | None, sites: str | None, positions: str, dtype: str | None, as_json: bool
) -> None:
    where: Any = parse_positions(positions)
    folder = open_folder(source)
    from actframe.storage.backends import backend_named
    from actframe.storage.cutting import Cut
    from actframe.storage.rewriting import convert_store

    # Said before a long ledger is read.
    with cut_errors():
        cut = Cut(parse_sites(sites) or None, where, dtype)
    if storage is not None:
        backend_named(storage)
    _check_target(folder.location, target)
    with resumable("converting", target) as bar:
        done = convert_store(
            folder.location, target, storage=storage, sites=cut.sites, positions=where, dtype=cut.dtype, progress=bar
        )
    if as_json:
        ratio = done.bytes_before / done.bytes_after if done.bytes_after else None
        print_json({**done.as_json(), "ratio": ratio})
    else:
        report_rewritten(done, store_tables.sizes(done.bytes_after, done.bytes_before))


def _check_target(source: str, target: str) -> None:
    from actframe.storage.backends import backend_for
    from actframe.storage.folders import store_folder

    if store_folder(target).location == source:
        raise typer.BadParameter("it is the store itself, which stays; give a new folder", param_hint="'TARGET'")
    with contextlib.suppress(UnknownNameError):
        backend = backend_for(target)
        raise typer.BadParameter(
            f"{target} is named like a file of the format {backend.name!r}, and a store becomes a store, which is a "
            f"folder; say the format with --storage {backend.name}",
            param_hint="'TARGET'",
        )
