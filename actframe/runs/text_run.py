"""TextRun: texts of a data file -> forward passes inside the recorder -> a store."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import numpy

from actframe.errors import BenchmarkError, StorageError
from actframe.runs.attempts import Attempts, check_engine
from actframe.runs.engines import ExecutionEngine, LocalEngine, Task
from actframe.runs.identity import describe_capture, describe_circumstances, describe_model, hash_of
from actframe.runs.models import LoadedModel
from actframe.runs.store_layout import StoreLayout
from actframe.runs.text_batches import TextBatches
from actframe.runs.text_data import TextData
from actframe.runs.text_encoding import Text, TextEncoder
from actframe.runs.text_progress import TextProgress, TextRunResult, TextSettings
from actframe.runs.text_room import TextRoom, TextSizes
from actframe.runs.text_survey import TextSurvey, survey_texts
from actframe.runs.text_work import TextWork, missing_texts

__all__ = ["TextProgress", "TextRun", "TextRunResult", "TextSettings"]


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
        engine: where it executes. Default: here.

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
        engine: ExecutionEngine | None = None,
    ) -> None:
        self.engine = engine or LocalEngine()
        self.model = model
        self.data = data
        self.settings = settings
        self.result: TextRunResult | None = None
        capture = settings.store.capture
        assert capture is not None
        check_engine(self.engine, settings.store)
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
        before = sum(self.done())
        now = TextProgress(before, survey.fitting, earlier=before, written=self.layout.written())
        room = TextRoom(self.layout, self.settings.store)
        attempts = Attempts(missing_texts)
        reason: str | None = "interrupted"
        try:
            tell(now)
            if before < survey.fitting:
                room.check(self.sizes(), survey)
                again = True
                while again:
                    with self.layout, closing(self._records(room, attempts, now)) as arriving:
                        for now in arriving:
                            tell(now)
                    again = attempts.again
            now = replace(now, written=self.layout.written())
            tell(now)
            reason = room.refused or attempts.reason
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            kept = now.done
            if reason is not None:
                # Whoever interrupts may do so between a record and its count.
                with suppress(StorageError):
                    kept = sum(self.done())
            self.result = TextRunResult(survey.total, kept, kept - before, survey, now, reason, attempts.failures)
        return self.result

    def _records(self, room: TextRoom, attempts: Attempts, now: TextProgress) -> Generator[TextProgress]:
        """Have the engine compute what has no record yet; says how far it has come after each."""
        began = time.monotonic() - now.seconds
        done = self.done()
        now = replace(now, done=sum(done))
        tasks = attempts.begin(self._tasks(done, room))
        work = TextWork(self.batches, self.settings, room, self.layout)
        with closing(self.engine.run(work, tasks)) as outcomes:
            for outcome in outcomes:
                attempts.take(outcome)
                now = replace(
                    now,
                    done=now.done + outcome.records,
                    tokens=now.tokens + outcome.tokens,
                    seconds=time.monotonic() - began,
                    written=self.layout.written() + attempts.written,
                )
                yield now

    def _tasks(self, done: bytearray, room: TextRoom) -> Iterator[Task]:
        """The batches of which records are missing, until there is no room for a record."""
        for batch in self.batches.plan(self.data, is_done=lambda text: bool(done[text.number])):
            if room.refused is not None:
                return
            there = frozenset(each.text.number for each in batch if done[each.text.number])
            yield Task(batch[0].text.number, batch, there)

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
