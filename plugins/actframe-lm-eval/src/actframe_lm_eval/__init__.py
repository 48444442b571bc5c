"""A plugin of actframe: tasks of lm-evaluation-harness as benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actframe import hookimpl

__all__ = ["extensions"]


@hookimpl
def extensions() -> Iterable[type[Any]]:
    """The benchmark; the harness itself is imported when a task is opened, since that takes seconds."""
    from actframe_lm_eval.adapter import LmEval

    return [LmEval]
