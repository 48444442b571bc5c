"""Records <-> bundles: how a record is laid out in a file, whatever the format.

A bundle of one record holds the activations as tensors, by site; every other key of the record is metadata, beside
`"format": "record/1"`. What is not a record of actframe's (a dictionary somebody pickled, a model's weights) has no
format and is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from actframe.errors import FormatError, StorageError
from actframe.records.bundle import Bundle
from actframe.records.record import ActivationRecord

__all__ = ["FORMAT", "json_safe", "pack", "unpack"]

FORMAT = "record/1"

_DEEPEST = 64

# Not str(value): what an enumeration's own __str__ says is not its value.
_EXACT: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}

# By exact type: of these nothing can be changed later and nothing is to be made plainer.
_PLAIN = frozenset({*_EXACT, bool, type(None)})


def pack(record: Mapping[str, Any]) -> Bundle:
    """The bundle of one record, or of the dictionary that `load_activations` returns. Tensors are shared, not copied.

    Raises:
        StorageError: a key other than `activations` holds something that JSON cannot.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("activations"), Mapping):
        raise StorageError(
            f"a record is a mapping whose 'activations' maps sites to tensors; this is of {_describe(record)}"
        )
    metadata = {key: value for key, value in record.items() if key not in {"activations", "format"}}
    return Bundle(record["activations"], json_safe({**metadata, "format": FORMAT}))


def unpack(bundle: Bundle) -> ActivationRecord:
    """The record that a bundle holds; its activations stay as lazy as the bundle's tensors are.

    Raises:
        FormatError: the bundle is not of one record, or of a format that this version does not know.
    """
    found = bundle.metadata.get("format", FORMAT)
    if found != FORMAT:
        raise FormatError(
            f"its format is {found!r}, and this version of actframe reads {FORMAT!r}; a newer version may read it"
        )
    metadata = {key: value for key, value in bundle.metadata.items() if key != "format"}
    return ActivationRecord({**metadata, "activations": bundle.tensors})


def json_safe(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `metadata` of plain dicts, lists, strings, numbers, booleans and None; tuples become lists.

    Numbers may be NaN and infinite, as in Python's `json`. Subclasses become what they specialise (`numpy.float64`
    is a `float`), so that every format gives back the same, and a pickle needs nothing but Python.

    Raises:
        StorageError: a value that JSON cannot hold, or a key that is not a string; the message says where.
    """
    return {_key(key, "metadata"): _plain(value, _step("metadata", key), 1) for key, value in metadata.items()}


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise StorageError(f"{where[:80]}... is nested more than {_DEEPEST} deep, or contains itself")
    if type(value) in _PLAIN:
        return value
    # Token ids are thousands a record: looked at one by one, they cost more than writing them does.
    if type(value) in (list, tuple) and depth < _DEEPEST and set(map(type, value)) <= _PLAIN:
        return list(value)
    for kind, exact in _EXACT.items():
        if isinstance(value, kind):
            return exact(value)
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, _step(where, key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise StorageError(
        f"{where} is of {_describe(value)}, which JSON cannot hold; tensors belong in 'activations', "
        f"other arrays can be kept as .tolist()"
    )


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise StorageError(f"{where} has the key {key!r} of {_describe(key)}; keys must be strings")
    return str.__str__(key)


def _step(where: str, key: Any) -> str:
    return f"{where}[{key!r}]"


def _describe(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    shape = getattr(value, "shape", None)
    return f"type {name}" + (f" and shape {tuple(shape)}" if shape is not None else "")
