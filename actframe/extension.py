"""Extension: a class with a name, the root of everything pluggable."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["Extension"]


class Extension:
    """What plugins provide: a subclass of one of the contracts, found by its `name`.

    A contract (`StorageBackend`, `CaptureStrategy`, `BenchmarkAdapter`) sets `kind`, which is what error
    messages call it, and `contract_version`; an implementation sets `name`, which is what users type.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    contract_version: ClassVar[int] = 1
    """Which version of a contract this actframe has: only a change that breaks implementations raises it."""

    built_for: ClassVar[int] = 1
    """Which version of its contract an implementation was written for. This default is never raised."""

    found_by: ClassVar[tuple[str, ...]] = ("name",)
    """The attributes by which users name an extension of this kind: no two may have the same."""
