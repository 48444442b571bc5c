"""The command that writes records of a store in formats of other programs."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from actframe.cli.console import print_json, print_path, stdout
from actframe.cli.convert import DtypeOption, PositionsOption, cut_errors
from actframe.cli.next_steps import print_commands, python_command
from actframe.cli.options import AsJson, SitesOption, parse_positions, parse_sites
from actframe.cli.progress import ByteBar
from actframe.cli.store_paths import open_folder
from actframe.cli.store_tables import count
from actframe.cli.stores import StorePath
from actframe.errors import SelectionError, nearest

if TYPE_CHECKING:
    from actframe.storage.exporting import Exported
    from actframe.storage.view import StoreView

__all__ = ["export"]

_ENDINGS = {"parquet": ".parquet", "npz": ".npz", "hf": "-hf"}
_READING = {
    "parquet": "import pandas; print(pandas.read_parquet({path}))",
    "npz": "import numpy; print(numpy.load({path}).files)",
    "hf": "import datasets; print(datasets.load_from_disk({path}))",
}
_LISTED = 8


def export(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    store: StorePath,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="parquet, npz (NumPy), or hf (a folder that Hugging Face datasets loads).",
            show_default=False,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="TARGET",
            help="A new file; for hf a new folder.",
            show_default="the store's name, in the current folder",
        ),
    ] = None,
    sites: SitesOption = None,
    positions: PositionsOption = "all",
    dtype: DtypeOption = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="KEY=VALUE",
            help="Only records that say this: 'correct=false'. Several: all of it.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write records of a store, what they say and their activations, for other programs: Parquet, NumPy, Hugging Face.

    The target is there once it is complete; of an export that ends early nothing remains.
    """
    if to not in _ENDINGS:
        message = f"no format {to!r}{nearest(to, _ENDINGS)}; there are {', '.join(_ENDINGS)}"
        raise typer.BadParameter(message, param_hint="--to")
    conditions = dict(map(_condition, where or ()))
    kept: Any = {"sites": parse_sites(sites) or None, "positions": parse_positions(positions), "dtype": dtype}
    folder = open_folder(store)
    from actframe.storage.cutting import Cut
    from actframe.storage.exporting import export_store
    from actframe.storage.store import ActivationStore

    with cut_errors():
        Cut(**kept)
    target = out or os.path.basename(folder.location.rstrip("/")) + _ENDINGS[to]
    view = _chosen(ActivationStore(folder.location, create=False), conditions)
    with ByteBar("exporting") as bar:
        done = export_store(view, target, to, progress=bar, overwrite=overwrite, **kept)  # type: ignore[arg-type]
    if as_json:
        print_json(done.as_json())
    else:
        _report(done)


def _condition(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        message = f"{text!r} is no condition; write KEY=VALUE, as in correct=false or subject=physics"
        raise typer.BadParameter(message, param_hint="--where")
    return key.strip(), value.strip()


def _chosen(view: StoreView, conditions: dict[str, str]) -> StoreView:
    """The records that say all this. A value is read as JSON where it can be, and as text where that finds nothing."""
    for key, text in conditions.items():
        found = view.where(**{key: _value(text)})
        found = found if len(found) else view.where(**{key: text})
        if not len(found):
            values = list(dict.fromkeys(json.dumps(value, ensure_ascii=False) for value in view.column(key)))
            listed = ", ".join(values[:_LISTED]) + (", ..." if len(values) > _LISTED else "")
            hint = nearest(text, [value.strip('"') for value in values[:1000]])
            raise SelectionError(f"no record has {key}={text}{hint}; under {key} they say {listed}")
        view = found
    return view


def _value(text: str) -> Any:
    if re.fullmatch("true|false|none|null", text, re.IGNORECASE):
        return {"true": True, "false": False}.get(text.lower())
    try:
        return json.loads(text)
    except ValueError:
        return text


def _report(done: Exported) -> None:
    print_path(done.location, "wrote ")
    parts = [count(done.records, "record"), count(len(done.sites), "site"), count(done.files, "file")]
    stdout().print(f"{', '.join(parts)}, {decimal(done.bytes)}")
    stdout().print("\nGo on with")
    reading = _READING[done.to].format(path=json.dumps(done.location))
    print_commands({"look at it": python_command("-c", reading)})
