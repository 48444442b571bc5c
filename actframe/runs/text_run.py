"""TextRun: texts of a data file -> forward passes inside the recorder -> a store."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from actframe.errors import BenchmarkError, SettingsError
from actframe.records.record import ActivationRecord
from actframe.runs.identity import describe_capture, describe_circumstances, describe_model, hash_of
from actframe.runs.layout import Written
from actframe.runs.models import LoadedModel
from actframe.runs.settings import RunSettings
from actframe.runs.store_layout import StoreLayout
from actframe.runs.text_batches import BATCH_TOKENS, TextBatches
from actframe.runs.text_data import TextData
from actframe.runs.text_encoding import Text, TextEncoder
from actframe.runs.text_room import TextRoom, TextSizes
from actframe.runs.text_survey import OnTrouble, TextSurvey, survey_texts

__all__ = ["TextProgress", "TextRun", "TextRunResult", "TextSettings"]


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
        reason: why it ended before the last text; None where it did not.
    """

    texts: int
    records: int
    new: int
    survey: TextSurvey
    progress: TextProgress
    reason: str | None = None

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
            "tokens": now.tokens,
            "seconds": now.seconds,
            "tokens_per_second": now.tokens_per_second,
            "bytes_on_disk": now.written.bytes_on_disk,
        }


class TextRun:
    """The texts of one data file, one model, one folder.

        data = TextData("reviews.jsonl", TextFields("review"))
        settings = TextSettings(RunSettings(capture=CaptureSettings(8)))
        print(TextRun(load_model("smollm2"), data, "activations", settings).execute().records)

    The folder becomes an `ActivationStore` with a record for each text. The same again in the same folder goes on where
    it ended, and each record becomes what it would have been.

    Args:
        model: what computes.
        data: the texts.
        folder: where records go; also a URL such as `s3://bucket/run`.
        settings: how it is done.
        overwrite: replace the run that is in the folder, when this one begins.

    Attributes:
        result: what came of the latest `execute`, also where it raised; None before.

    Raises:
        BenchmarkError: the data cannot be had.
        ModelError: the model has no tokenizer, or is in training mode.
        SiteError, SelectionError, LayoutError: the selection does not fit the model.
        StorageError: the folder cannot be made or written, or holds something else.
        SettingsError: the folder holds another run; the message has every difference.
    """

    def __init__(
        self,
        model: LoadedModel,
        data: TextData,
        folder: str | os.PathLike[str],
        settings: TextSettings,
        *,
        overwrite: bool = False,
    ) -> None:
        self.model = model
        self.data = data
        self.settings = settings
        self.result: TextRunResult | None = None
        capture = settings.store.capture
        assert capture is not None
        model.require_tokenizer()
        self.batches = TextBatches(model, capture.select, TextEncoder(model, settings.chat), settings.batch_tokens)
        self.folder = os.fspath(folder)
        self.overwrites = overwrite
        self.layout = StoreLayout(folder, settings.store, self._describe(), overwrite)
        self.layout.check()
        self.layout.check_can_write()
        self._survey: TextSurvey | None = None

    @property
    def location(self) -> str:
        """The folder's path, or its URL."""
        return self.layout.location

    def survey(self, progress: Callable[[int], None] | None = None) -> TextSurvey:
        """Look at every text, once: whether all of them can be computed, before the model runs.

        Raises:
            PromptError: some do not fit the context or are empty, and are not to be skipped.
            BenchmarkError: there are none; a row is not as it should be; or two have one id.
        """
        if self._survey is None:
            ids = _Ids(self.data)
            found = survey_texts(ids, self.batches, progress)
            if not found.total:
                raise BenchmarkError(f"{self.data.source} holds no text")
            ids.check()
            found.check(too_long=self.settings.too_long, empty=self.settings.empty)
            self._survey = found
        return self._survey

    def done(self) -> bytearray:
        """For each row, whether its record is there already."""
        rows = bytearray(self.survey().total)
        for row in self.layout.column("row"):
            if isinstance(row, int) and 0 <= row < len(rows):
                rows[row] = 1
        return rows

    def sizes(self) -> TextSizes:
        """How large records are, from that of the first text."""
        texts = self.batches.first(self.data, 1)
        record = next(record for _, record in self.batches.compute(texts))
        return TextSizes.of(record, self.model.is_encoder_decoder, self.settings.store)

    def execute(self, progress: Callable[[TextProgress], None] | None = None) -> TextRunResult:
        """Compute every text that has no record yet.

        Whatever ends it early, Ctrl-C included, leaves every record that was given; then the exception goes on. Where
        `max_disk_bytes` ends it, the result says so.

        Args:
            progress: called before the first batch, after each record, and when all of them are on disk.

        Raises:
            PromptError, BenchmarkError: as `survey`.
            StorageError: the disk has no room for it, or what is written cannot be.
        """
        survey, tell = self.survey(), progress or (lambda now: None)
        done = self.done()
        there = sum(done)
        now = TextProgress(there, survey.fitting, earlier=there, written=self.layout.written())
        room: TextRoom | None = None
        reason: str | None = "interrupted"
        try:
            tell(now)
            if there < survey.fitting:
                room = TextRoom(self.layout, self.settings.store)
                room.check(self.sizes(), survey)
                with self.layout, closing(self._records(done, room, now)) as arriving:
                    for now in arriving:
                        tell(now)
            now = replace(now, written=self.layout.written())
            tell(now)
            reason = room.refused if room is not None else None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.result = TextRunResult(survey.total, now.done, now.done - there, survey, now, reason)
        return self.result

    def _records(self, done: bytearray, room: TextRoom, now: TextProgress) -> Generator[TextProgress]:
        """Give each record to the layout; says how far it has come after each."""
        began = time.monotonic()
        arriving = self.batches.compute(self.data, is_done=lambda text: bool(done[text.number]))
        for text, record in arriving:
            if not room.fits(record):
                return
            self.layout.append(record)
            done[text.number] = 1
            tokens = now.tokens + _length(record)
            seconds = time.monotonic() - began
            now = replace(now, done=now.done + 1, tokens=tokens, seconds=seconds, written=self.layout.written())
            yield now

    def _describe(self) -> dict[str, Any]:
        """What defines this run, as `describe_run` of a benchmark's."""
        chat = self.settings.chat
        if chat is None:
            chat = self.model.is_chat and self.data.fields.text is None
        template = getattr(self.model.tokenizer, "chat_template", None) if chat else None
        return {
            "model": describe_model(self.model),
            "data": self.data.identity(),
            "prompt": {"chat": chat, "template": hash_of([template]) if template else None},
            "limit": self.data.limit,
            "batch_tokens": self.settings.batch_tokens,
            "capture": describe_capture(self.model, self.settings.store.capture),
            **describe_circumstances(self.model),
        }


class _Ids:
    """Texts as they pass, of whose ids no two may be alike. Hashes are kept, for there may be millions."""

    def __init__(self, data: TextData) -> None:
        self._data = data
        self._seen = array("q")

    def __iter__(self) -> Iterator[Text]:
        for text in self._data:
            self._seen.append(hash(text.name))
            yield text

    def check(self) -> None:
        """Refuse ids that two rows have.

        Raises:
            BenchmarkError: there are some; the message names two rows.
        """
        hashes = numpy.frombuffer(self._seen, dtype=numpy.int64)
        order = numpy.argsort(hashes, kind="stable")
        twice = numpy.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        if len(twice):
            first, second = sorted(int(order[twice[0] + offset]) for offset in (0, 1))
            raise BenchmarkError(
                f"the rows {first} and {second} of {self._data.source} (counted from 0) have the same id; "
                f"{len(twice)} ids stand twice. Make them differ, or leave the field out: --drop-fields id"
            )


def _length(record: ActivationRecord) -> int:
    return len(record.input_ids) + len(record.output_ids)
