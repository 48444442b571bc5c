"""Sitting: one execution of a run, which may need several; what it took and with what it was computed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from actframe.runs.batches import batch_tokens
from actframe.runs.identity import versions
from actframe.runs.layout import Written
from actframe.runs.memory import Halving
from actframe.runs.models import LoadedModel
from actframe.runs.plan import Job
from actframe.runs.results import DERIVED
from actframe.runs.settings import RunSettings

__all__ = ["Sitting"]

Answered = TypeVar("Answered")


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
        self._halving = Halving[Job](
            lambda jobs: batch_tokens([len(job.input_ids) for job in jobs], settings.generation)
        )

    def compute(
        self, batch: Sequence[Job], answer: Callable[[Sequence[Job]], Answered]
    ) -> Iterator[tuple[Sequence[Job], Answered]]:
        """Let the model answer a batch, in parts where memory does not suffice; each part with its answers."""
        refused_before = self._halving.refused
        parts = self._halving.run(batch, answer)
        while True:
            began = time.monotonic()
            try:
                part = next(parts, None)
            finally:
                self.generating += time.monotonic() - began
            if refused_before is None and self._halving.refused is not None:
                refused_before = self._halving.refused
                warnings.warn(
                    f"memory does not suffice for batches of {refused_before} tokens: those as large are halved from "
                    f"here on. A smaller batch_tokens (--batch-tokens) or batch_size saves the attempts",
                    RuntimeWarning,
                    stacklevel=2,
                )
            if part is None:
                return
            yield part

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
            "halved_from_tokens": self._halving.refused,
            "device": str(self._model.device),
            **{f"{name}_version": version for name, version in versions().items()},
        }
