"""Whether the records of texts find room: on the disk, and in what the user allows them to take."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from rich.filesize import decimal

from actframe.capture.selection import Selection
from actframe.errors import StorageError
from actframe.records.record import ActivationRecord
from actframe.runs.sampling import compression
from actframe.runs.settings import RunSettings
from actframe.runs.sizes import SHARD, SHARD_SITE, STORED, AnswerSizes
from actframe.runs.store_layout import StoreLayout
from actframe.runs.text_survey import TextSurvey

__all__ = ["TextRoom", "TextSizes"]


@dataclass(frozen=True)
class TextSizes:
    """How large the records of texts are.

    Attributes:
        sizes: by their length. Nothing is generated, so a text is as an answer of one token more.
        ratio: how much smaller the storage backend makes activations.
    """

    sizes: AnswerSizes
    ratio: float

    @classmethod
    def of(cls, record: ActivationRecord, is_encoder_decoder: bool, settings: RunSettings) -> TextSizes:
        """Of texts like this one."""
        assert settings.capture is not None
        selection = Selection.of(settings.capture.select)
        sizes = AnswerSizes.of(record, selection, is_encoder_decoder)
        return cls(sizes, compression([record], settings.capture.storage))

    def stored_bytes(self, survey: TextSurvey) -> int:
        """What all records take on disk, as it is to be expected."""
        lengths = Counter(zip(survey.prompt_tokens, survey.response_tokens, strict=True))
        return sum(
            count * self.sizes.stored_bytes(prompt, response + 1, self.ratio)
            for (prompt, response), count in lengths.items()
        )


class TextRoom:
    """The room that the records of one run have.

    Args:
        layout: where they go.
        settings: how much they may take.

    Attributes:
        refused: why a record was refused; None while none was.
    """

    def __init__(self, layout: StoreLayout, settings: RunSettings) -> None:
        self._layout = layout
        self._limit = settings.max_disk_bytes
        self.refused: str | None = None

    def check(self, sizes: TextSizes, survey: TextSurvey) -> None:
        """Say before the work starts if it cannot find room on the disk.

        Raises:
            StorageError: it cannot.
        """
        free = self._layout.free_bytes()
        if free is None:
            return
        there = self._layout.written().bytes_on_disk
        needed = max(0, sizes.stored_bytes(survey) - there)
        if self._limit is not None:
            needed = min(needed, max(0, self._limit - there))
        if needed > free:
            raise StorageError(
                f"the activations of {survey.fitting} texts need {decimal(needed)}, and {decimal(free)} are free on "
                f"the disk of {self._layout.location}; free some space, record fewer sites or positions, set --limit, "
                "or give a folder on another disk"
            )

    def fits(self, record: ActivationRecord) -> bool:
        """Whether one more record fits into the limit.

        Where what waits to be written may not fit beside it, that is written first, and then its size is known.
        """
        if self._limit is None:
            return True
        line = len(json.dumps({key: value for key, value in record.items() if key != "activations"}))
        shard = SHARD + SHARD_SITE * len(record.activations)
        own = 2 * line + STORED
        coming = sum(tensor.nbytes for tensor in record.activations.values()) + own + shard
        now = self._layout.written()
        waiting = now.queued_bytes + now.queued_records * own + (shard if now.queued_records else 0)
        if now.bytes_on_disk + waiting + coming <= self._limit:
            return True
        self._layout.flush()
        taken = self._layout.written().bytes_on_disk
        if taken + coming <= self._limit:
            return True
        self.refused = (
            f"the folder may take {decimal(self._limit)} and has {decimal(taken)}; the next record could take "
            f"{decimal(coming)}"
        )
        return False
