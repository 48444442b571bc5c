"""Extension: a class with a name, the root of everything pluggable."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["Extension"]


class Extension:
    """What plugins provide: a subclass of one of the contracts, found by its `name`.

    A contract (`StorageBackend`, `CaptureStrategy`, `BenchmarkAdapter`) sets `kind`, which is what error
    messages call it; an implementation sets `name`, which is what users type.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
