"""A store's `run.json`, made anew where it is lost or damaged."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from datetime import UTC, datetime

from actframe.errors import ActframeError, FormatError
from actframe.storage.backends import backend_for
from actframe.storage.files import read_bundle
from actframe.storage.identity import FORMAT, IDENTITY, OWN_FILE, StoreIdentity, identity_content, read_identity
from actframe.storage.keys import writer_of
from actframe.storage.quarantine import put_aside
from actframe.storage.store_folder import StoreFolder

__all__ = ["repair_identity"]


def repair_identity(folder: StoreFolder) -> tuple[StoreIdentity, str | None]:
    """What `run.json` says. Where that is lost or damaged it is written anew, and what was done is said too.

    Shards repeat what defines their run. Of a store that was converted or merged, where its records came from is lost.

    Raises:
        FormatError: it is sound, and that of a newer version.
    """
    if IDENTITY in folder.sizes(""):
        try:
            return read_identity(folder), None
        except FormatError:
            if _is_newer(folder.read(IDENTITY)):
                raise
    identity = _identity_of(folder)
    if IDENTITY in folder.sizes(""):
        put_aside(folder, IDENTITY)
    folder.write(IDENTITY, identity_content(identity.backend, identity.run, identity.origin, identity.created))
    if identity.run is not None:
        return identity, "made anew, with what the shards say of their run"
    return identity, "made anew; what may have defined a run is lost, so that no run can go on with this store"


def _identity_of(folder: StoreFolder) -> StoreIdentity:
    """What a store's shards say of where they come from."""
    names = [name for name in folder.sizes("shards") if OWN_FILE.match(name)]
    backends: Counter[str] = Counter()
    writers: dict[str, list[str]] = {}
    for name in names:
        # One shard that cannot be read is not in the way of what the others say.
        with contextlib.suppress(ActframeError):
            backends[backend_for(name).name] += 1
            run = read_bundle(folder.local(f"shards/{name}")).metadata.get("run")
            if run is not None:
                writers.setdefault(json.dumps(run, sort_keys=True), []).append(writer_of(name))
    backend = backends.most_common(1)[0][0] if backends else "safetensors"
    began = min((writer_of(name) for name in [*names, *folder.sizes("ledger")]), default=None)
    created = began and datetime.strptime(began[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).isoformat()
    runs = [json.loads(run) for run in writers]
    if len(runs) < 2:
        return StoreIdentity(backend, runs[0] if runs else None, created)
    sources = [
        {"from": None, "run": number, "writers": list(dict.fromkeys(names))}
        for number, names in enumerate(writers.values())
    ]
    return StoreIdentity(backend, {"merged": runs}, created, {"merged": sources})


def _is_newer(content: bytes) -> bool:
    """Whether a `run.json` is sound, and that of a newer version."""
    try:
        found = json.loads(content)["format"]
    except (ValueError, TypeError, KeyError):
        return False
    return isinstance(found, str) and found.startswith("store/") and found != FORMAT
