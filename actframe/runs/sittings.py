"""Sitting: one execution of a run, which may need several; what it took and with what it was computed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from actframe.runs.identity import versions
from actframe.runs.layout import Written
from actframe.runs.models import LoadedModel
from actframe.runs.settings import RunSettings

__all__ = ["Sitting"]

DERIVED = ("format", "partial", "reason", "summary", "by_subject", "answers", "output_tokens")
"""What results say that is computed from the answers each time."""


class Sitting:
    """One execution of a run, while it goes on.

    Attributes:
        answers: how many were given.
        tokens: how many were generated, also for answers that were there already and came again with their batch.
        generating: the seconds spent on that.
    """

    def __init__(self, model: LoadedModel, benchmark: str, settings: RunSettings) -> None:
        self._model = model
        self._benchmark = benchmark
        self._settings = settings
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self.answers = 0
        self.tokens = 0
        self.generating = 0.0

    @contextmanager
    def generates(self) -> Iterator[None]:
        """Inside the block the model generates."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.generating += time.monotonic() - began

    def circumstances(self, earlier: Mapping[str, Any], written: Written) -> dict[str, Any]:
        """What results say of model, benchmark, settings and sittings.

        Args:
            earlier: the results of the sittings before this one; empty if it is the first.
            written: what is on disk now.
        """
        if not self.answers and earlier:
            return {key: value for key, value in earlier.items() if key not in DERIVED}
        sittings = [*earlier.get("sittings", ()), self._as_json()]
        tokens = sum(each["generated_tokens"] for each in sittings)
        generating = sum(each["generating_seconds"] for each in sittings)
        settings = self._settings
        return {
            "started": sittings[0]["started"],
            "seconds": sum(each["seconds"] for each in sittings),
            "model": self._model.name,
            "benchmark": self._benchmark,
            "settings": {
                "num_trials": settings.num_trials,
                "limit": settings.limit,
                **asdict(settings.generation),
                "capture": settings.capture.as_json() if settings.capture else None,
                "layout": settings.layout,
            },
            "dtype": str(self._model.model.dtype).removeprefix("torch."),
            "tokens_per_second": tokens / generating if generating else 0.0,
            "bytes_on_disk": written.bytes_on_disk,
            "sittings": sittings,
        }

    def _as_json(self) -> dict[str, Any]:
        return {
            "started": self._started.isoformat(),
            "seconds": time.monotonic() - self._clock,
            "generating_seconds": self.generating,
            "answers": self.answers,
            "generated_tokens": self.tokens,
            "device": str(self._model.device),
            **{f"{name}_version": version for name, version in versions().items()},
        }
