"""What a user names as a benchmark: one that is installed, a task of it, or a file of questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from actframe.benchmarks.base import BenchmarkAdapter, BenchmarkOptions
from actframe.benchmarks.rows import is_data_file
from actframe.errors import BenchmarkError
from actframe.registry import registry

__all__ = ["open_benchmark"]

OWN = "jsonl"
"""The benchmark that reads questions of the user's own."""


def open_benchmark(name: str, options: BenchmarkOptions | None = None) -> BenchmarkAdapter:
    """The benchmark that is meant.

    Args:
        name: an installed one (`mmlu`), one with a task (`gpqa:main`), or a file or folder of questions
            (`questions.jsonl`, `./questions`), which benchmark `jsonl` reads.
        options: what else was said. A task in the name counts as one of them.

    Raises:
        UnknownNameError: no benchmark is called so; the message says what there is.
        BenchmarkError: there is no such file, or the benchmark does not have an option.
    """
    options = options or BenchmarkOptions()
    if is_data_file(Path(name)) or name.startswith((".", "/", "~")):
        if options.data is not None:
            raise BenchmarkError(
                f"{name!r} is a file of questions, so --data {options.data!r} has no place; leave out one"
            )
        return _find(OWN).open(replace(options, data=name))
    plain, colon, task = name.partition(":")
    return _find(plain).open(replace(options, task=task) if colon else options)


def _find(name: str) -> type[BenchmarkAdapter]:
    return registry().find(BenchmarkAdapter, name)  # type: ignore[type-abstract]
