"""The layout that the settings of a run mean."""

from __future__ import annotations

import os

from actframe.benchmarks.base import BenchmarkAdapter
from actframe.errors import SettingsError
from actframe.runs.files_layout import FilesLayout
from actframe.runs.identity import describe_run
from actframe.runs.layout import RunLayout
from actframe.runs.models import LoadedModel
from actframe.runs.plan import RunPlan
from actframe.runs.settings import RunSettings
from actframe.runs.store_layout import StoreLayout

__all__ = ["layout_for"]


def layout_for(
    folder: str | os.PathLike[str],
    model: LoadedModel,
    benchmark: BenchmarkAdapter,
    plan: RunPlan,
    settings: RunSettings,
    *,
    overwrite: bool = False,
) -> RunLayout:
    """Where a run goes; nothing is written yet.

    Raises:
        SettingsError: the layout has no such thing as overwriting.
    """
    if settings.layout == "store":
        return StoreLayout(folder, settings, describe_run(model, benchmark, plan, settings), overwrite)
    if overwrite:
        raise SettingsError("the layout 'files' overwrites nothing: what an earlier run left is renamed and kept")
    return FilesLayout(folder, settings.capture)
