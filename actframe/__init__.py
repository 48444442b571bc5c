"""Record what happens inside a transformer while it works."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actframe.benchmarks.base import BenchmarkAdapter, BenchmarkOptions, Likelihood, Question, Verdict
    from actframe.benchmarks.prompting import Completion, Message, Prompting
    from actframe.capture.base import CaptureStrategy
    from actframe.capture.recorder import ActivationRecorder
    from actframe.capture.selection import Selection
    from actframe.errors import (
        ActframeError,
        BenchmarkError,
        CaptureError,
        EngineError,
        FormatError,
        LayoutError,
        ModelError,
        PluginError,
        PromptError,
        SelectionError,
        SettingsError,
        SiteError,
        StorageError,
        UnknownNameError,
        UnsafeFileError,
    )
    from actframe.hookspecs import hookimpl
    from actframe.inference import (
        answer_benchmark_question,
        answer_benchmark_question_with_activations,
        generate_inference,
        generate_inference_with_activations,
    )
    from actframe.records.bundle import Bundle, LazyTensors
    from actframe.records.record import ActivationRecord
    from actframe.runs.engines import ExecutionEngine, Failure, Outcome, Task, Work, Worker, engine_option
    from actframe.runs.texts import capture_texts
    from actframe.storage.base import StorageBackend
    from actframe.storage.files import load_activations, save_activations
    from actframe.storage.positional import PositionalFile
    from actframe.storage.row_labels import LabelledRows, RowLabels
    from actframe.storage.store import ActivationStore
    from actframe.storage.widening import narrowed, widened

__all__ = [
    "ActframeError",
    "ActivationRecord",
    "ActivationRecorder",
    "ActivationStore",
    "BenchmarkAdapter",
    "BenchmarkError",
    "BenchmarkOptions",
    "Bundle",
    "CaptureError",
    "CaptureStrategy",
    "Completion",
    "EngineError",
    "ExecutionEngine",
    "Failure",
    "FormatError",
    "LabelledRows",
    "LayoutError",
    "LazyTensors",
    "Likelihood",
    "Message",
    "ModelError",
    "Outcome",
    "PluginError",
    "PositionalFile",
    "PromptError",
    "Prompting",
    "Question",
    "RowLabels",
    "Selection",
    "SelectionError",
    "SettingsError",
    "SiteError",
    "StorageBackend",
    "StorageError",
    "Task",
    "UnknownNameError",
    "UnsafeFileError",
    "Verdict",
    "Work",
    "Worker",
    "answer_benchmark_question",
    "answer_benchmark_question_with_activations",
    "capture_texts",
    "engine_option",
    "generate_inference",
    "generate_inference_with_activations",
    "hookimpl",
    "load_activations",
    "narrowed",
    "save_activations",
    "widened",
]

_HOMES = {
    "ActivationRecord": "actframe.records.record",
    "ActivationRecorder": "actframe.capture.recorder",
    "ActivationStore": "actframe.storage.store",
    "BenchmarkAdapter": "actframe.benchmarks.base",
    "BenchmarkOptions": "actframe.benchmarks.base",
    "Bundle": "actframe.records.bundle",
    "CaptureStrategy": "actframe.capture.base",
    "Completion": "actframe.benchmarks.prompting",
    "ExecutionEngine": "actframe.runs.engines",
    "Failure": "actframe.runs.engines",
    "LabelledRows": "actframe.storage.row_labels",
    "LazyTensors": "actframe.records.bundle",
    "Likelihood": "actframe.benchmarks.base",
    "Message": "actframe.benchmarks.prompting",
    "Outcome": "actframe.runs.engines",
    "PositionalFile": "actframe.storage.positional",
    "Prompting": "actframe.benchmarks.prompting",
    "Question": "actframe.benchmarks.base",
    "RowLabels": "actframe.storage.row_labels",
    "Selection": "actframe.capture.selection",
    "StorageBackend": "actframe.storage.base",
    "Task": "actframe.runs.engines",
    "Verdict": "actframe.benchmarks.base",
    "Work": "actframe.runs.engines",
    "Worker": "actframe.runs.engines",
    "answer_benchmark_question": "actframe.inference",
    "answer_benchmark_question_with_activations": "actframe.inference",
    "capture_texts": "actframe.runs.texts",
    "engine_option": "actframe.runs.engines",
    "generate_inference": "actframe.inference",
    "generate_inference_with_activations": "actframe.inference",
    "hookimpl": "actframe.hookspecs",
    "load_activations": "actframe.storage.files",
    "narrowed": "actframe.storage.widening",
    "save_activations": "actframe.storage.files",
    "widened": "actframe.storage.widening",
}


def __getattr__(name: str) -> Any:
    """Import what a name needs when it is first used, so that `import actframe` stays fast and without torch."""
    if name not in __all__:
        raise AttributeError(f"module 'actframe' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "actframe.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
