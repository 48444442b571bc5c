"""Kinds: what the values under a key of many records have in common, for formats whose columns are of one type."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["JSON", "Kind", "as_json_text", "joined", "kind_of", "kinds_of"]

Name = Literal["null", "bool", "int", "long", "float", "str", "list", "object", "json"]


@dataclass(frozen=True)
class Kind:
    """What values are. Any of them may be None.

    Attributes:
        name: `"int"` is a whole number that a float holds exactly, `"long"` one of 64 bits, `"object"` a mapping with
            the same keys everywhere, `"json"` whatever is not of one kind: that is kept as JSON text.
        items: of a list.
        fields: of an object, by key.
    """

    name: Name
    items: Kind | None = None
    fields: tuple[tuple[str, Kind], ...] = ()


NULL, JSON = Kind("null"), Kind("json")
_SIMPLE: dict[type, Kind] = {type(None): NULL, bool: Kind("bool"), float: Kind("float"), str: Kind("str")}
# Their keys are names of sites, so that what is an object in one store is another in the next.
_BY_SITE = ("site_positions",)


def kinds_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, Kind]:
    """The kind of each key, in the order in which these came; looks at one entry after the other."""
    kinds: dict[str, Kind] = {}
    for entry in entries:
        for key, value in entry.items():
            known = kinds.get(key, NULL)
            if known is not JSON:
                kinds[key] = JSON if key in _BY_SITE else joined(known, kind_of(value))
    return kinds


def kind_of(value: Any) -> Kind:
    """The kind of one JSON value."""
    simple = _SIMPLE.get(type(value))
    if simple is not None:
        return simple
    if isinstance(value, int):
        return _whole(value, value)
    if isinstance(value, list):
        # Token ids are thousands a record.
        types = set(map(type, value))
        if types == {int}:
            items = _whole(min(value), max(value))
        elif types <= _SIMPLE.keys():
            items = _all_joined(_SIMPLE[each] for each in types)
        else:
            items = _all_joined(map(kind_of, value))
        return JSON if items is JSON else Kind("list", items)
    fields = tuple((key, kind_of(each)) for key, each in value.items())
    # Not every format has objects without keys.
    return JSON if not fields or any(kind is JSON for _, kind in fields) else Kind("object", fields=fields)


def joined(one: Kind, other: Kind) -> Kind:
    """The kind of values of which some are of one kind and some of another."""
    if one == other or other is NULL:
        return one
    if one is NULL:
        return other
    if one.name == other.name == "list":
        assert one.items is not None
        assert other.items is not None
        items = joined(one.items, other.items)
        return JSON if items is JSON else Kind("list", items)
    if one.name == other.name == "object" and dict(one.fields).keys() == dict(other.fields).keys():
        there = dict(other.fields)
        fields = tuple((key, joined(kind, there[key])) for key, kind in one.fields)
        return JSON if any(kind is JSON for _, kind in fields) else Kind("object", fields=fields)
    names = {one.name, other.name}
    if names == {"int", "long"}:
        return Kind("long")
    return Kind("float") if names == {"int", "float"} else JSON


def as_json_text(value: Any) -> str | None:
    """A value as JSON text; None stays None."""
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _whole(least: int, most: int) -> Kind:
    if least >= -(2**53) and most <= 2**53:
        return Kind("int")
    return Kind("long") if least >= -(2**63) and most < 2**63 else JSON


def _all_joined(kinds: Iterable[Kind]) -> Kind:
    found = NULL
    for kind in kinds:
        found = joined(found, kind)
    return found
