"""What a run records beside its answers, and where it puts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from actframe.benchmarks.prompting import Scoring
from actframe.capture.base import CaptureStrategy
from actframe.capture.recorder import ActivationRecorder, Sink
from actframe.capture.selection import Selection, Sites
from actframe.errors import CaptureError, StorageError
from actframe.records.record import ActivationRecord
from actframe.registry import registry
from actframe.runs.models import LoadedModel
from actframe.storage.atomic import check_writable
from actframe.storage.files import activation_file_name, backend_named, save_activations

__all__ = ["CaptureSettings", "RecordedBatch", "check_folder", "prepare_folder", "recorded_batches", "save_record"]


@dataclass(frozen=True)
class CaptureSettings:
    """What is recorded of each answer, and as what it is saved. Names are looked up when this is made.

    Attributes:
        select: as in `ActivationRecorder`: None for embeddings and all layers.
        strategy: the capture strategy's name.
        storage: the storage backend's name.
    """

    select: Selection | Sites | None = None
    strategy: str = "hooks"
    storage: str = "safetensors"

    def __post_init__(self) -> None:
        Selection.of(self.select)
        registry().find(CaptureStrategy, self.strategy)  # type: ignore[type-abstract]
        backend_named(self.storage)

    @property
    def suffix(self) -> str:
        """How the files end."""
        return backend_named(self.storage).suffix

    def recorder(self, loaded: LoadedModel, into: Sink) -> ActivationRecorder:
        """A recorder of that model; the selection is checked against it."""
        return ActivationRecorder(
            loaded.model, self.select, strategy=self.strategy, tokenizer=loaded.tokenizer, into=into
        )

    def as_json(self) -> dict[str, Any]:
        """The settings in JSON-safe form."""
        return {"select": Selection.of(self.select).as_json(), "strategy": self.strategy, "storage": self.storage}


class RecordedBatch:
    """A sink for one batch at a time: its records, in the order of its rows.

    Attributes:
        recorder: what fills it.
        capture: what that records; None where nobody said.
    """

    def __init__(self) -> None:
        self._records: list[ActivationRecord] = []
        self.recorder: AbstractContextManager[Any] = nullcontext()
        self.capture: CaptureSettings | None = None

    def append(self, record: ActivationRecord) -> None:
        """Take the next record."""
        self._records.append(record)

    def clear(self) -> None:
        """Forget the records of a batch that was not finished."""
        self._records = []

    def take_followed(self, sequences: Sequence[tuple[list[int], list[int]]]) -> list[ActivationRecord | None]:
        """The record of each prompt with what follows, None where it has none; others stay for `take`."""
        found: list[ActivationRecord | None] = []
        for prompt, rest in sequences:
            # Of those that are alike, rows came in their order.
            fits = (n for n, each in enumerate(self._records) if (each.input_ids, each.output_ids) == (prompt, rest))
            number = next(fits, None)
            found.append(None if number is None else self._records.pop(number))
        return found

    def take(self, encoded: list[list[int]]) -> list[ActivationRecord]:
        """The records of the batch with these prompts, and forget them.

        Raises:
            CaptureError: the records are not those of these prompts. An answer joined with another's activations
                would be worse than none.
        """
        records, self._records = self._records, []
        if [record.input_ids for record in records] != encoded:
            raise CaptureError(f"{len(encoded)} prompts gave {len(records)} records, or not of these prompts")
        return records


@contextmanager
def recorded_batches(
    capture: CaptureSettings | None, loaded: LoadedModel, scoring: Scoring
) -> Iterator[RecordedBatch | None]:
    """Batches of a run are recorded in this block; gives the sink of their records, None where nothing is captured.

    What is generated is recorded whole, by one recorder that is open all the time. Where choices are ranked, their
    passes are none of the record's business: whoever runs the prompts enters the sink's recorder for them.
    """
    if capture is None:
        yield None
        return
    sink = RecordedBatch()
    sink.recorder, sink.capture = capture.recorder(loaded, into=sink), capture
    with sink.recorder if scoring == "generate" else nullcontext():
        yield sink


def check_folder(folder: Path) -> None:
    """See that files could be written in a folder, without making it.

    Raises:
        StorageError: they could not.
    """
    try:
        path = folder.absolute()
        # Not `exists`, which a file in the place of a folder would end.
        check_writable(next(each for each in (path, *path.parents) if each.exists() or each.is_symlink()))
    except OSError as error:
        raise StorageError(f"cannot write to the folder {folder}: {error.strerror or error}") from error


def prepare_folder(folder: Path) -> None:
    """Make a folder where there is none, and see that files can be written there.

    Raises:
        StorageError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        raise StorageError(f"cannot write to the folder {folder}: {error.strerror or error}") from error


def save_record(record: ActivationRecord, folder: Path, suffix: str) -> Path:
    """Save the record of an answer in a file of its own, named by the time and the prompt."""
    when = datetime.now()
    while True:
        path = folder / activation_file_name(record.prompt or "", suffix, when)
        if not path.exists():
            return save_activations(record, path)
        # The same prompt in the same microsecond: clocks may be coarse.
        when += timedelta(microseconds=1)
