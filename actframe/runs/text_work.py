"""What workers do that capture texts: compute batches of them, and give each record to the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from actframe.capture.recorder import Sink
from actframe.records.record import ActivationRecord
from actframe.runs.elsewhere import StorePlace, TravellingModel, written_by
from actframe.runs.engines import Failure, Outcome, Task, Work, Worker, Written
from actframe.runs.isolation import Isolation
from actframe.runs.store_layout import StoreLayout
from actframe.runs.text_batches import TextBatches, padded_tokens
from actframe.runs.text_encoding import EncodedText, TextEncoder
from actframe.runs.text_progress import TextSettings
from actframe.runs.text_room import TextRoom
from actframe.storage.store import ActivationStore

__all__ = ["TextWork", "missing_texts"]


class TextWork(Work):
    """Computing texts; the items of tasks are encoded texts.

    Args:
        batches: compute them, in this process.
        settings: how it is done.
        room: says whether a record still fits, in this process.
        layout: of the run; pickle the work while it is entered.
    """

    def __init__(self, batches: TextBatches, settings: TextSettings, room: TextRoom, layout: StoreLayout) -> None:
        self._here: tuple[TextBatches, TextRoom, StoreLayout] | None = (batches, room, layout)
        self._elsewhere: tuple[TravellingModel, StorePlace] | None = None
        self._settings = settings

    def __getstate__(self) -> dict[str, Any]:
        if self._here is None:
            return self.__dict__
        batches, _, layout = self._here
        return {
            "_here": None,
            "_elsewhere": (TravellingModel.of(batches.loaded), layout.place()),
            "_settings": self._settings,
        }

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        if self._here is not None:
            batches, room, layout = self._here
            yield TextWorker(batches, layout, room)
            return
        assert self._elsewhere is not None
        model, place = self._elsewhere
        loaded, settings = model.load(), self._settings
        assert settings.store.capture is not None
        batches = TextBatches(
            loaded, settings.store.capture.select, TextEncoder(loaded, settings.chat), settings.batch_tokens
        )
        with place.open() as store:
            yield TextWorker(batches, store)


class TextWorker(Worker):
    """Computes texts.

    Args:
        batches: compute them.
        store: gets the records.
        room: says whether a record still fits; None where nobody asks.
    """

    def __init__(self, batches: TextBatches, store: Sink, room: TextRoom | None = None) -> None:
        self._batches = batches
        self._store = store
        self._room = room
        self._isolation = Isolation[EncodedText](padded_tokens)

    def compute(self, task: Task) -> Iterator[Outcome]:
        """As the contract says, with an outcome for each record; ends early where there is no room for the next."""
        for part in self._isolation.run(task.items, self._batches.compute_batch):
            missing = [place for place, each in enumerate(part.items) if each.text.number not in task.done]
            if part.result is None:
                failures = tuple(Failure(_name(part.items[place]), str(part.reason)) for place in missing)
                yield Outcome(task.number, failures=failures)
                continue
            for place in missing:
                record = self._batches.describe(part.items[place], part.result[place])
                if self._room is not None and not self._room.fits(record):
                    return
                self._store.append(record)
                yield Outcome(task.number, 1, tokens=_length(record), halved_from_tokens=self._isolation.refused)

    def written(self) -> Written:
        """As the contract says."""
        return written_by(self._store) if isinstance(self._store, ActivationStore) else Written()


def missing_texts(task: Task) -> list[str]:
    """What messages call the texts of a task whose records are missing."""
    return [_name(each) for each in task.items if each.text.number not in task.done]


def _name(encoded: EncodedText) -> str:
    return f"text {encoded.text.name}"


def _length(record: ActivationRecord) -> int:
    return len(record.input_ids) + len(record.output_ids)
