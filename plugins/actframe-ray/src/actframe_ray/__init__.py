"""Run benchmarks and captures of actframe on several workers of a Ray cluster: the engine `ray`."""

from __future__ import annotations

from collections.abc import Iterable

from actframe import ExecutionEngine, hookimpl

__all__ = ["extensions"]


@hookimpl
def extensions() -> Iterable[type[ExecutionEngine]]:
    """The engine. Ray itself is imported when it runs."""
    from actframe_ray.engine import RayEngine

    return [RayEngine]
