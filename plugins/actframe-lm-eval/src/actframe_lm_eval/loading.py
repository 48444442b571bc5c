"""Name or path -> task of the harness, and which tasks are refused."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from actframe import ActframeError, BenchmarkError, UnknownNameError

__all__ = ["FEWSHOT_SEED", "SCORINGS", "load_task"]

FEWSHOT_SEED = 1234
"""What the harness draws few-shot examples with where nobody says otherwise."""

SCORINGS = {"generate_until": "generate", "multiple_choice": "loglikelihood"}
"""How the answers of a task are found, by its output type."""


def load_task(name: str) -> Any:
    """The task object.

    Args:
        name: of a task that the harness brings, or the path of a task's YAML file.

    Raises:
        UnknownNameError: no task has this name; the message has the nearest ones.
        BenchmarkError: there is no such file, it is not a task, its data cannot be read, or it is one of a kind that
            actframe does not run.
    """
    # Every task of the harness is looked through for a name, which takes a quarter of a minute.
    is_path = name.endswith((".yaml", ".yml")) or Path(name).is_file()
    if is_path and not Path(name).expanduser().is_file():
        raise BenchmarkError(f"there is no file {name!r}")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=not is_path)
    if not is_path and name not in manager.all_tasks:
        close = difflib.get_close_matches(name, manager.all_tasks, n=5)
        meant = f"did you mean {', '.join(close)}?" if close else "`lm-eval ls tasks` lists all"
        raise UnknownNameError(f"lm-evaluation-harness has no task {name!r}; {meant}")
    try:
        tasks = manager.load(str(Path(name).expanduser()) if is_path else name)["tasks"]
    except ActframeError:
        raise
    except Exception as error:
        raise BenchmarkError(f"task {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if len(tasks) != 1:
        some = ", ".join(list(tasks)[:5])
        raise BenchmarkError(
            f"{name!r} is a group of {len(tasks)} tasks; run them one by one: {some}{', ...' * (len(tasks) > 5)}"
        )
    (task,) = tasks.values()
    if reason := _refusal(task):
        raise BenchmarkError(f"task {name!r} {reason}")
    return task


def _refusal(task: Any) -> str | None:
    """Why a task is not run; None where it is."""
    if getattr(task, "UNSAFE_CODE", False):
        return "runs code that models write, which actframe does not do; use lm-evaluation-harness itself"
    if getattr(task, "MULTIMODAL", False):
        return "asks about images or sound, which actframe does not give to models"
    if task.OUTPUT_TYPE not in SCORINGS:
        return f"is of type {task.OUTPUT_TYPE!r}; there is an answer to keep in {' and '.join(SCORINGS)} only"
    if (repeats := getattr(task.config, "repeats", 1)) > 1:
        return (
            f"wants {repeats} responses to each question before it filters them; make a copy of its YAML with "
            "`repeats: 1` and ask for several trials instead"
        )
    return None
