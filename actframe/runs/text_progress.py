"""How texts are captured, how far that has come, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actframe.errors import SettingsError
from actframe.runs.engines import Written
from actframe.runs.settings import RunSettings
from actframe.runs.text_batches import BATCH_TOKENS
from actframe.runs.text_survey import OnTrouble, TextSurvey

__all__ = ["TextProgress", "TextRunResult", "TextSettings"]


@dataclass(frozen=True)
class TextSettings:
    """How texts are computed and kept.

    Attributes:
        store: what is recorded (`capture`) and how the store is written.
        batch_tokens, chat, too_long, empty: as in `capture_texts`.
    """

    store: RunSettings
    batch_tokens: int = BATCH_TOKENS
    chat: bool | None = None
    too_long: OnTrouble = "error"
    empty: OnTrouble = "error"

    def __post_init__(self) -> None:
        if self.store.capture is None or self.store.layout != "store":
            raise SettingsError("texts are captured into a store; give RunSettings(capture=CaptureSettings(...))")


@dataclass(frozen=True)
class TextProgress:
    """How far the work has come.

    Attributes:
        done: texts with a record, those of earlier sittings too.
        total: texts that get one.
        tokens, seconds: what was computed in this sitting, and in which time.
        earlier: records that were there before.
        written: what is on disk, and on its way there.
    """

    done: int
    total: int
    tokens: int = 0
    seconds: float = 0.0
    earlier: int = 0
    written: Written = field(default_factory=Written)

    @property
    def tokens_per_second(self) -> float:
        """How fast texts are computed, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class TextRunResult:
    """What came of it.

    Attributes:
        texts: how many there are.
        records: how many have a record.
        new: how many of these came in this sitting.
        survey: what there was to compute, and what was skipped.
        progress: how far it has come.
        reason: why records are missing; None where none are.
        failures: texts that were left out because they failed: why, by what messages call them.
    """

    texts: int
    records: int
    new: int
    survey: TextSurvey
    progress: TextProgress
    reason: str | None = None
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether texts are missing that could be computed."""
        return self.reason is not None

    def as_json(self) -> dict[str, Any]:
        """The result in JSON-safe form."""
        survey, now = self.survey, self.progress
        skipped = {"too_long": survey.too_long, "empty": survey.empty}
        return {
            "texts": self.texts,
            "records": self.records,
            "new": self.new,
            "skipped": {why: {"count": each.count, "first": each.names} for why, each in skipped.items()},
            "partial": self.partial,
            "reason": self.reason,
            "failures": dict(self.failures),
            "tokens": now.tokens,
            "seconds": now.seconds,
            "tokens_per_second": now.tokens_per_second,
            "bytes_on_disk": now.written.bytes_on_disk,
        }
