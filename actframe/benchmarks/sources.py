"""Questions that come with actframe: one JSON object on each line, as `own.question_in` reads it."""

from __future__ import annotations

import functools
from importlib import resources

from actframe.benchmarks.base import Question
from actframe.benchmarks.own import question_in
from actframe.benchmarks.rows import located_rows

__all__ = ["bundled_questions"]


@functools.cache
def bundled_questions(file_name: str) -> tuple[Question, ...]:
    """The questions of a file that comes with actframe, in its order; read once for each process."""
    with resources.as_file(resources.files("actframe.benchmarks") / "bundled" / file_name) as path:
        return tuple(question_in(row, path.stem) for row in located_rows(path))
