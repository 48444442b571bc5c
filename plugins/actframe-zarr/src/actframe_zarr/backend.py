"""Storage backend `zarr`: a Zarr group in a zip, with an array for each tensor and coordinates that label its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
import zarr

from actframe import Bundle, FormatError, LabelledRows, LazyTensors, RowLabels, StorageBackend, StorageError
from actframe_zarr import arrays
from actframe_zarr.zip_stores import ZipReader, ZipWriter

__all__ = ["ZarrBackend"]

ABOUT = "actframe"
"""The attribute of the group that holds the metadata and the names of the tensors, and the group of a store's own."""

_LONGEST_TEXT = 100


class ZarrBackend(StorageBackend):
    """`.zarr.zip` files, which Zarr and xarray read; sites, and rows of a site, are read without the others."""

    name = "zarr"
    suffix = ".zarr.zip"
    reads_lazily = True

    def write(self, path: Path, bundle: Bundle) -> None:
        """Write an array for each tensor, then those that label the rows."""
        tensors = LazyTensors.of(bundle.tensors)
        about = {"metadata": json.dumps(bundle.metadata), "tensors": list(tensors)}
        paths = {name: _path(name) for name in tensors}
        labels = RowLabels(bundle)
        axes = _axes(tensors, labels.groups)
        with ZipWriter(path) as store:
            group = zarr.create_group(store, attributes={ABOUT: about})
            for name, place in paths.items():
                try:
                    arrays.write_tensor(store, place, tensors[name], axes[name])
                except StorageError as error:
                    raise StorageError(f"{name!r} cannot be kept in Zarr: {error}") from error
            coordinates = {key: each for key, each in _coordinates(labels).items() if key not in paths}
            for key, (values, axis) in coordinates.items():
                arrays.write_array(store, key, values, [axis])
            # Where xarray looks for which arrays are coordinates.
            group.update_attributes({"coordinates": " ".join(coordinates)})

    def read(self, path: Path, names: Collection[str] | None = None) -> Bundle:
        """Read the metadata; arrays are read when they are looked up."""
        with _refusing():
            store = ZipReader(path)
            group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
            about = _about(group.attrs.get(ABOUT))
        opened: dict[str, zarr.Array[Any]] = {}

        def array(name: str) -> zarr.Array[Any]:
            if name not in opened:
                opened[name] = arrays.open_array(store, _path(name))
            return opened[name]

        def facts(name: str) -> tuple[torch.dtype, tuple[int, ...]]:
            with _refusing():
                return arrays.dtype_of(array(name)), array(name).shape

        def rows(name: str, start: int, stop: int) -> torch.Tensor:
            with _refusing():
                return arrays.read_rows(array(name), *slice(start, stop).indices(array(name).shape[0])[:2])

        def load(name: str) -> torch.Tensor:
            with _refusing():
                return arrays.read_rows(array(name), 0, next(iter(array(name).shape), 0))

        wanted = [name for name in about["tensors"] if names is None or name in names]
        return Bundle(LazyTensors(wanted, load, facts=facts, rows=rows), about["metadata"])


def _path(name: str) -> str:
    """Where the array of a tensor is: a store's own tensors are below `actframe`, out of the way of the sites."""
    own = name.removeprefix(f"{ABOUT}.")
    if name == ABOUT or not _is_node(own):
        raise StorageError(f"an array of a Zarr group cannot be called {name!r:.80}; rename it")
    return own if own == name else f"{ABOUT}/{own}"


def _is_node(name: str) -> bool:
    """Whether Zarr, and the directory of a zip, can call something so."""
    if not name.strip(".") or name.startswith("__") or name == "zarr.json" or set(name) & set("/\\\0"):
        return False
    try:
        return len(name.encode()) < 2**15
    except UnicodeEncodeError:
        return False


def _axes(tensors: LazyTensors, groups: list[LabelledRows]) -> dict[str, list[str]]:
    """What the axes of each tensor are called: axes of one name have one length, as xarray demands."""
    shapes = {name: tensors.facts(name)[1] for name in tensors}
    axes = {name: [f"{name}.{axis}" for axis in range(len(shape))] for name, shape in shapes.items()}
    widths = Counter(shapes[name][1] for group in groups for name in group.names if len(shapes[name]) == 2)
    for number, group in enumerate(groups):
        for name in group.names:
            axes[name][0] = _numbered("row", number)
            if len(shapes[name]) == 2 and shapes[name][1] == widths.most_common(1)[0][0]:
                axes[name][1] = "d_model"
    return axes


def _coordinates(labels: RowLabels) -> dict[str, tuple[Any, str]]:
    """The arrays that say of each row which record and position it is of, and what the record says; and their axis."""
    said = {key: _values(column) for key, column in labels.columns.items() if _is_label(key)}
    found: dict[str, tuple[Any, str]] = {}
    for number, group in enumerate(labels.groups):
        axis = _numbered("row", number)
        for key, values in {**said, "record": numpy.arange(len(labels.said))}.items():
            if values is not None:
                found[_numbered(key, number)] = (values[group.records], axis)
        found[_numbered("position", number)] = (group.positions, axis)
    return found


def _is_label(key: str) -> bool:
    """Whether an array can be called so: xarray takes what is between spaces for a name, and axes have theirs."""
    return _is_node(key) and not any(map(str.isspace, key)) and key.partition(".")[0] not in (ABOUT, "row", "d_model")


def _values(column: list[Any]) -> Any:
    """An array of what all records say, or None where one says nothing, or a long text."""
    if None in column:
        return None
    if isinstance(column[0], str):
        is_short = all(len(text) <= _LONGEST_TEXT and text.isprintable() for text in column)
        return numpy.array(column, object) if is_short else None
    return numpy.array(column)


def _numbered(name: str, number: int) -> str:
    return f"{name}.{number}" if number else name


def _about(found: Any) -> dict[str, Any]:
    """The metadata, and the names of the tensors in their order.

    Raises:
        FormatError: they are not there.
    """
    if not isinstance(found, dict) or not isinstance(found.get("metadata"), str):
        raise FormatError(f"its group has no attribute {ABOUT!r} with metadata: actframe did not write it")
    metadata, names = json.loads(found["metadata"]), found.get("tensors")
    if not isinstance(metadata, dict) or not isinstance(names, list) or set(map(type, names)) - {str}:
        raise FormatError(f"the attribute {ABOUT!r} of its group does not hold metadata and the names of tensors")
    return {"metadata": metadata, "tensors": names}


@contextmanager
def _refusing() -> Iterator[None]:
    """What damaged files make Zarr and its codecs raise becomes a FormatError."""
    try:
        yield
    except (StorageError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise FormatError(f"it is not what this backend writes, damaged, or cut short: {error}") from error
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise FormatError(f"it is not what this backend writes, damaged, or cut short: {error}") from error
