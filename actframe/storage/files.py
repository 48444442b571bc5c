"""Files: records on disk, whatever their format.

Backends know their format alone. What every format needs is here: a write is atomic and durable, a pipe or a folder
is refused before it is opened, and whatever a backend or the library under it raises becomes a `StorageError` that
says which file, which backend and why.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from actframe.capture.sites import canonical, expand, layer_site, narrow_places, summarise
from actframe.errors import FormatError, SiteError, StorageError, nearest
from actframe.records.bundle import Bundle, LazyTensors
from actframe.records.packing import json_safe, pack, unpack
from actframe.records.record import ActivationRecord
from actframe.storage.atomic import check_writable, replacing
from actframe.storage.backends import backend_for, backend_named
from actframe.storage.failures import failing
from actframe.storage.file_names import activation_file_name

__all__ = [
    "activation_file_name",
    "backend_for",
    "backend_named",
    "check_can_save",
    "load_activations",
    "load_record",
    "matching_sites",
    "plain_tensor",
    "read_bundle",
    "save_activations",
    "write_bundle",
]


def save_activations(record: Mapping[str, Any], path: Path | str) -> Path:
    """Save a record, or the dictionary that `load_activations` returns, in the format that the suffix names.

    The file is complete and on disk when this returns. After an error, what was there before is untouched.

    Raises:
        StorageError: the folder does not exist or cannot be written, the disk is full, or a key of the record holds
            what JSON cannot.
        UnknownNameError: no storage backend has this suffix.
    """
    return write_bundle(pack(record), path)


def load_activations(path: Path | str, sites: str | int | Iterable[str | int] | None = None) -> dict[str, Any]:
    """Load a record as a plain dictionary: `prompt`, `response`, `model`, ..., and `activations` by site.

    Tensors are on the CPU and own their memory. No code from the file is run, whatever its format.

    Args:
        path: a file of any installed backend.
        sites: None for all; else site names, their aliases, patterns (`"layer_*"`), layer numbers, or a list of
            these. Formats that can read one site without the others read no more than that.

    Raises:
        StorageError: there is no such file, or it cannot be read.
        FormatError: it is damaged, cut short, or not what its suffix says.
        UnsafeFileError: it asks for code to be run, or lies about its sizes.
        SiteError: it does not hold one of `sites`; the message lists what it holds.
    """
    record = load_record(path, sites)
    return {**record, "activations": dict(record.activations)}


def load_record(path: Path | str, sites: str | int | Iterable[str | int] | None = None) -> ActivationRecord:
    """Load a record whose activations are read when they are looked up, where the format can do that.

    Arguments and errors are those of `load_activations`; errors of a single tensor come when it is looked up.
    """
    path = Path(path)
    patterns = None if sites is None else [sites] if isinstance(sites, str | int) else list(sites)
    plain = _plain_names(patterns)
    bundle = read_bundle(path, plain)
    if patterns is not None:
        if plain is not None and not set(plain) <= bundle.tensors.keys():
            bundle = read_bundle(path)
        names = matching_sites(patterns, list(bundle.tensors), path)
        bundle = Bundle(LazyTensors(names, bundle.tensors.__getitem__), bundle.metadata)
    with failing(f"cannot read {path}"):
        record = unpack(bundle)
    return record if patterns is None else _narrowed(record)


def check_can_save(path: Path | str) -> None:
    """Raise what saving to `path` would raise, as far as that can be known before there is anything to save."""
    path = Path(path)
    backend = backend_for(path)
    with failing(f"cannot save to {path}", backend):
        _check_target(path)
        check_writable(path.parent)


def write_bundle(bundle: Bundle, path: Path | str) -> Path:
    """Write a bundle in the format that the suffix names, in one durable step. Returns the path."""
    path = Path(path)
    backend = backend_for(path)
    with failing(f"cannot save to {path}", backend, "; what was there before is untouched"):
        _check_target(path)
        tensors = {name: plain_tensor(name, tensor) for name, tensor in bundle.tensors.items()}
        metadata = json_safe(bundle.metadata)
        with replacing(path, backend.suffix) as temporary:
            backend.write(temporary, Bundle(tensors, metadata))
    return path


def read_bundle(path: Path | str, names: Collection[str] | None = None) -> Bundle:
    """Read a bundle: its metadata, and those of the tensors `names` that it has (None: all)."""
    path = Path(path)
    with failing(f"cannot read {path}"):
        _check_source(path)
    backend = backend_for(path)
    with failing(f"cannot read {path}", backend):
        bundle = backend.read(path, names)
        if not isinstance(bundle, Bundle):
            raise TypeError(f"it gave {type(bundle).__qualname__} where a Bundle was expected")
    lazy = LazyTensors.of(bundle.tensors)

    def guard(read: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(name: str, *bounds: int) -> Any:
            with failing(f"cannot read {name!r} of {path}", backend):
                return read(name, *bounds)

        return guarded

    view = guard(lazy.view) if lazy.has_views else None
    tensors = LazyTensors(lazy, guard(lazy.__getitem__), facts=guard(lazy.facts), rows=guard(lazy.rows), view=view)
    return Bundle(tensors, bundle.metadata)


def _plain_names(patterns: list[str | int] | None) -> list[str] | None:
    """The sites asked for, where all are plain names; None where it takes the file's sites to say."""
    if patterns is None or not all(isinstance(site, str) and not set(site) & set("*?") for site in patterns):
        return None
    return [canonical(str(site)) for site in patterns]


def matching_sites(patterns: Iterable[str | int], available: list[str], where: Path | str) -> list[str]:
    """The sites of a file or a store that names, patterns and layer numbers mean, in the order of `available`.

    Raises:
        SiteError: one of them means none; the message lists those there are.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        try:
            found = layer_site(pattern, available) if isinstance(pattern, int) else expand(pattern, available)
        except SiteError:
            found = []
        if not found or not set(found) <= set(available):
            asked = f"layer {pattern}" if isinstance(pattern, int) else f"site {pattern!r}"
            hint = nearest(pattern, available) if isinstance(pattern, str) else ""
            raise SiteError(f"{where} holds no {asked}{hint}; it holds {summarise(available)}")
        wanted.update(found)
    return [site for site in available if site in wanted]


def _narrowed(record: ActivationRecord) -> ActivationRecord:
    """The record with what it says about its sites limited to those that were read."""
    changes: dict[str, Any] = {}
    if "sites" in record:
        changes["sites"] = list(record.activations)
    if isinstance(record.get("places"), dict):
        changes["places"] = narrow_places(record["places"], record.activations)
    if isinstance(record.get("site_positions"), dict):
        changes["site_positions"] = {
            site: positions for site, positions in record["site_positions"].items() if site in record.activations
        }
    return record.replace(**changes)


def plain_tensor(name: Any, tensor: Any) -> torch.Tensor:
    """The tensor as backends take it: dense, detached, on the CPU.

    Raises:
        StorageError: it cannot be; the message names it.
    """
    if not isinstance(name, str):
        raise StorageError(f"the activations have the key {name!r}; sites are strings, such as 'layer_{name}'")
    if not isinstance(tensor, torch.Tensor):
        raise StorageError(f"{name!r} is of type {type(tensor).__qualname__}, not a torch.Tensor")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else tensor.layout
        raise StorageError(f"{name!r} is a {kind} tensor; only plain dense tensors can be saved")
    if type(tensor) is torch.Tensor and tensor.is_cpu and not tensor.requires_grad:
        return tensor
    return tensor.detach().cpu()


def _check_target(path: Path) -> None:
    folder = path.parent
    if not folder.exists():
        raise StorageError(f"the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder")
    if path.exists() and not path.is_file():
        raise StorageError(f"it is {_kind(path.stat().st_mode)}, not a file")


def _check_source(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        failure = StorageError(f"there is no such file{nearest(path.name, siblings)}")
        failure.errno = error.errno
        raise failure from error
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"it is {_kind(status.st_mode)}, not a file")
    if not status.st_size:
        raise FormatError("it is empty: writing it was never finished")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
