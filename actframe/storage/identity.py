"""What makes a folder a store: `run.json`, written once when the store is begun."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from actframe.errors import FormatError, StorageError
from actframe.records.packing import json_safe
from actframe.storage.store_folder import StoreFolder

__all__ = [
    "FORMAT",
    "IDENTITY",
    "OWN_FILE",
    "RESULTS",
    "StoreIdentity",
    "begin_anew",
    "begin_store",
    "check_new",
    "identity_content",
    "is_store",
    "read_identity",
]

FORMAT = "store/1"
IDENTITY = "run.json"
RESULTS = "results.json"
"""Where a benchmark run leaves its results in its store."""

OWN_FILE = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]+[-.]")
"""How the names of shards and ledgers begin: with their writer."""

_LONGEST_NAME = 40


@dataclass(frozen=True)
class StoreIdentity:
    """What `run.json` says.

    Attributes:
        backend: the storage backend that the store was begun with.
        run: what defines the run whose records it holds, or None.
        created: when it was begun, ISO 8601.
        origin: what it was made from, if from other stores: `{"converted": ...}` or `{"merged": [...]}`.
    """

    backend: str
    run: dict[str, Any] | None
    created: str | None
    origin: dict[str, Any] | None = None


def begin_store(
    folder: StoreFolder, backend: str, run: Mapping[str, Any] | None, origin: Mapping[str, Any] | None = None
) -> None:
    """Write `run.json`; of several processes that begin a store at once, the first one does.

    Raises:
        StorageError: the folder holds other things, or cannot be written.
    """
    check_new(folder)
    folder.create(IDENTITY, identity_content(backend, run, origin))


def begin_anew(folder: StoreFolder, backend: str, run: Mapping[str, Any] | None) -> None:
    """Delete everything of the store that is in the folder, and begin another in its place.

    Files that are not the store's stay. What is on the way there can be opened as the old store, with fewer records.
    """
    for below in ("shards", "ledger", "quarantine"):
        for name in folder.sizes(below):
            if OWN_FILE.match(name):
                folder.remove(f"{below}/{name}")
    if RESULTS in folder.sizes(""):
        folder.remove(RESULTS)
    folder.write(IDENTITY, identity_content(backend, run))


def is_store(folder: StoreFolder) -> bool:
    """Whether there is a store, or what is left of one."""
    return IDENTITY in folder.sizes("") or bool(folder.sizes("ledger") or folder.sizes("shards"))


def check_new(folder: StoreFolder) -> None:
    """See that a store can be begun in the folder, or has been.

    Raises:
        StorageError: the folder holds other things.
    """
    found = [*folder.folders(), *folder.sizes("")]
    if found and IDENTITY not in found:
        raise StorageError(
            f"{folder.location} is not a store, and holds other things ({_some(found)}); choose a new folder"
        )


def _some(names: Sequence[str]) -> str:
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names[:3]]
    return ", ".join([*shown, *(["..."] if len(names) > 3 else [])])


def read_identity(folder: StoreFolder) -> StoreIdentity:
    """What `run.json` says. Where that is lost and there is a ledger, the store can be read nevertheless.

    Raises:
        StorageError: there is no store.
        FormatError: it is that of a version that this one does not know, or damaged.
    """
    if IDENTITY not in folder.sizes(""):
        if is_store(folder):
            return StoreIdentity("safetensors", None, None)
        there = "what is there is none" if folder.exists() else "there is nothing at that path"
        raise StorageError(f"there is no store at {folder.location}: {there}")
    try:
        content = json.loads(folder.read(IDENTITY))
        found = content["format"]
        identity = StoreIdentity(content["backend"], content["run"], content.get("created"), content.get("origin"))
        if found == FORMAT:
            _check_sources(identity)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{IDENTITY} of {folder.location} is damaged, or not that of a store: {error!r}") from error
    if found != FORMAT:
        raise FormatError(
            f"the store {folder.location} has the format {found!r}, and this version of actframe reads {FORMAT!r}; "
            f"a newer version may read it"
        )
    return identity


def _check_sources(identity: StoreIdentity) -> None:
    """Raise for a merged store that does not say of which run each writer's records are."""
    sources = (identity.origin or {}).get("merged", ())
    if not all({*map(type, source["writers"])} <= {str} and type(source["run"]) is int for source in sources):
        raise ValueError("its origin does not say which writers are of which run")
    numbers = {source["run"] for source in sources}
    if len(numbers) > 1 and not (min(numbers) >= 0 and max(numbers) < len((identity.run or {})["merged"])):
        raise ValueError("its origin names other runs than it has")


def identity_content(
    backend: str, run: Mapping[str, Any] | None, origin: Mapping[str, Any] | None = None, created: str | None = None
) -> bytes:
    """The text of `run.json`; `created` is now, where nothing else is known."""
    content = {
        "format": FORMAT,
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
        "actframe_version": metadata.version("actframe"),
        "backend": backend,
        "run": None if run is None else json_safe(run),
    }
    if origin is not None:
        content["origin"] = json_safe(origin)
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
