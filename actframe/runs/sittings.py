"""Sitting: one execution of a run, which may need several; what it took and with what it was computed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from actframe.runs.engines import Outcome, Written
from actframe.runs.identity import versions
from actframe.runs.models import LoadedModel
from actframe.runs.results import DERIVED
from actframe.runs.settings import RunSettings

__all__ = ["Sitting"]


class Sitting:
    """One execution of a run, while it goes on.

    Attributes:
        answers: how many were given.
        tokens: how many were generated, also for answers that were there already and came again with their batch.
    """

    def __init__(self, model: LoadedModel, benchmark: str, settings: RunSettings) -> None:
        self._model = model
        self._benchmark = benchmark
        self._settings = settings
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self.answers = 0
        self.tokens = 0
        self._seconds: dict[str, float] = {}
        self._refused: int | None = None
        self._earlier: int | None = None

    @property
    def generating(self) -> float:
        """The seconds spent on that; workers generate side by side, so these are those of the busiest."""
        return max(self._seconds.values(), default=0.0)

    def begin(self, there: int) -> int:
        """Begin a round of work.

        Args:
            there: how many answers are.

        Returns:
            How many were there before the sitting.
        """
        self._earlier = there if self._earlier is None else self._earlier
        self.answers = there - self._earlier
        return self._earlier

    def take(self, outcome: Outcome) -> None:
        """Add what came of a task."""
        self.answers += outcome.records
        self.tokens += outcome.tokens
        self._seconds[outcome.worker] = self._seconds.get(outcome.worker, 0.0) + outcome.seconds
        refused = outcome.halved_from_tokens
        if refused is not None and self._refused is None:
            warnings.warn(
                f"memory does not suffice for batches of {refused} tokens: those as large are halved from "
                f"here on. A smaller batch_tokens (--batch-tokens) or batch_size saves the attempts",
                RuntimeWarning,
                stacklevel=2,
            )
        if refused is not None:
            self._refused = min(refused, self._refused or refused)

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
                "subjects": list(settings.subjects) if settings.subjects else None,
                "scoring": settings.scoring,
                "record_choices": settings.record_choices,
                "prompt": asdict(settings.prompting),
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
            "halved_from_tokens": self._refused,
            "device": str(self._model.device),
            **{f"{name}_version": version for name, version in versions().items()},
        }
