"""The layout that the settings of a run mean."""

from __future__ import annotations

import os

from actframe.runs.files_layout import FilesLayout
from actframe.runs.layout import RunLayout
from actframe.runs.models import LoadedModel
from actframe.runs.plan import RunPlan
from actframe.runs.settings import RunSettings

__all__ = ["layout_for"]


def layout_for(
    folder: str | os.PathLike[str],
    model: LoadedModel,
    benchmark: str,
    plan: RunPlan,
    settings: RunSettings,
    *,
    overwrite: bool = False,
) -> RunLayout:
    """Where a run goes; nothing is written yet."""
    return FilesLayout(folder, settings.capture)
