"""Commands that keep stores in order: ls, verify, repair, merge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from actframe.cli import store_tables
from actframe.cli.console import print_json, print_path, printable, stderr, stdout
from actframe.cli.next_steps import actframe_command, print_commands
from actframe.cli.options import AsJson
from actframe.cli.progress import ByteBar
from actframe.cli.store_paths import check_folder, open_folder

if TYPE_CHECKING:
    from actframe.storage.rewriting import Rewritten

__all__ = ["StorePath", "ls", "merge", "repair", "report_rewritten", "resumable", "verify"]

StorePath = Annotated[
    str,
    typer.Argument(metavar="STORE", help="A store: a folder, or a URL such as s3://bucket/run.", show_default=False),
]


def ls(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder, or a URL such as s3://bucket/runs.")] = ".",
    as_json: AsJson = False,
) -> None:
    """List the stores below a folder: their models, benchmarks, records, sizes, and when they were last written.

    Nothing is opened or changed. Records are the lines of the ledger.
    """
    check_folder(folder)
    from actframe.storage.finding import find_stores

    found = list(find_stores(folder))
    if as_json:
        print_json([each.as_json() for each in found])
    elif found:
        store_tables.print_stores(folder, found)
    else:
        stderr().print(f"no stores below {printable(folder)}", soft_wrap=True, markup=False)


def verify(store: StorePath, as_json: AsJson = False) -> None:
    """Check every byte of a store: each shard against its checksum, each line of the ledger against its shard.

    Says which records are damaged, and changes nothing. The exit code is 1 when anything is wrong.
    """
    folder = open_folder(store)
    from actframe.storage.health import verify_store

    with ByteBar("verifying") as bar:
        report = verify_store(folder, bar)
    if as_json:
        print_json(report.as_json())
    else:
        store_tables.print_report(report)
        if not report.ok:
            stdout().print("\nGo on with")
            print_commands({"put the store right; nothing is deleted": actframe_command("repair", store)})
    if not report.ok:
        raise typer.Exit(1)


def repair(store: StorePath, as_json: AsJson = False) -> None:
    """Put a damaged store right: what is sound stays, and ledgers are made anew from the shards.

    Damaged shards and old ledgers are moved to the folder quarantine of the store; nothing is deleted. The same command
    that made the store then makes exactly what is missing. The exit code is 1 when something could not be put right.
    """
    folder = open_folder(store)
    from actframe.errors import FormatError
    from actframe.storage.identity import read_identity
    from actframe.storage.repair import repair_store

    with ByteBar("checking") as bar:
        report = repair_store(folder, bar)
    if as_json:
        print_json(report.as_json())
    else:
        identity = None
        with contextlib.suppress(FormatError):
            identity = read_identity(folder)
        store_tables.print_repairs(report, identity)
    if report.left:
        raise typer.Exit(1)


def merge(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="STORES", help="Two stores or more, of one run or several.", show_default=False),
    ],
    into: Annotated[str, typer.Option("--into", metavar="NEW_STORE", help="A new folder or URL.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Make one store of several. Their shards are copied as they are; they stay.

    When it is interrupted, the same command again goes on. Stores that hold the same answers are refused.
    """
    folders = [open_folder(store) for store in stores]
    _check_sources([folder.location for folder in folders], into)
    from actframe.storage.merging import merge_stores

    with resumable("merging", into) as bar:
        done = merge_stores([folder.location for folder in folders], into, progress=bar)
    if as_json:
        print_json(done.as_json())
    else:
        report_rewritten(done, decimal(done.bytes_after))


@contextlib.contextmanager
def resumable(what: str, target: str) -> Iterator[ByteBar]:
    """A progress bar for work that goes on where it ended; when it ends early, this is said."""
    try:
        with ByteBar(what) as bar:
            yield bar
    except BaseException:
        if bar.done:
            kept = f"what is finished stays in {printable(target)}; the same command again goes on from there"
            stderr().print(kept, soft_wrap=True, markup=False)
        raise


def report_rewritten(done: Rewritten, size: str) -> None:
    """What was written, and how large it is."""
    print_path(done.location, "wrote the store " if done.written else "the store was complete already: ")
    console = stdout()
    what = f"{store_tables.count(done.records, 'record')} in {store_tables.count(done.shards, 'shard')}"
    console.print(f"{what}, {size}", soft_wrap=True)
    if 0 < done.written < done.shards:
        console.print(f"{done.shards - done.written:,} of the shards were there from an earlier attempt")


def _check_sources(sources: list[str], into: str) -> None:
    from actframe.storage.folders import store_folder

    if len(sources) < 2:
        raise typer.BadParameter("give two stores or more", param_hint="'STORES'")
    if twice := [source for number, source in enumerate(sources) if source in sources[:number]]:
        raise typer.BadParameter(f"{twice[0]} is given twice", param_hint="'STORES'")
    if store_folder(into).location in sources:
        raise typer.BadParameter(f"{into} is one of the stores to merge; give a new folder", param_hint="'--into'")
