"""Whether what a run writes finds room: on the disk, and in what the user allows it to take."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable

from rich.filesize import decimal

from actframe.errors import StorageError
from actframe.runs.layout import RunLayout
from actframe.runs.plan import Batch, Job, Key
from actframe.runs.settings import RunSettings
from actframe.runs.sizes import STORED, AnswerSizes

__all__ = ["DiskRoom"]

ONE_TOKEN = 1


class DiskRoom:
    """The room that one run has on the disk.

    Args:
        layout: where it writes.
        settings: how much it may write, and how long answers become.
        sizes: how large they are.
        ratio: how much smaller the storage backend makes activations.
    """

    def __init__(self, layout: RunLayout, settings: RunSettings, sizes: AnswerSizes, ratio: float) -> None:
        self._layout = layout
        self._limit = settings.max_disk_bytes
        self._longest = settings.generation.max_new_tokens
        self._shard_bytes = settings.shard_bytes if settings.layout == "store" else 0
        self._sizes = sizes
        self._ratio = ratio
        self.refused: str | None = None

    def check(self, jobs: Iterable[Job]) -> None:
        """Say before the work starts if the answers to these jobs cannot, or may not, find room on the disk.

        Raises:
            StorageError: they cannot, even if each were one token long.
        """
        free = self._layout.free_bytes()
        if free is None:
            return
        every = list(jobs)
        least = sum(self._sizes.stored_bytes(*each, self._ratio) for job in every for each in job.lengths(ONE_TOKEN))
        most = sum(self._sizes.most_bytes(*each, self._ratio) for job in every for each in job.lengths(self._longest))
        if self._limit is not None:
            allowed = max(0, self._limit - self._layout.written().bytes_on_disk)
            least, most = min(least, allowed), min(most, allowed)
        # While a shard is made, its activations are there twice.
        most += min(most, 2 * self._shard_bytes)
        where = f"{decimal(free)} are free on the disk of {self._layout.location}"
        advice = "free some space, record fewer sites or positions, or give a folder on another disk"
        if least > free:
            raise StorageError(f"the activations of the prompts alone take {decimal(least)}, and {where}; {advice}")
        if most > free:
            warnings.warn(
                f"if every answer becomes as long as it may ({self._longest} tokens), this run needs "
                f"{decimal(most)}, and {where}; what is finished is kept if the disk becomes full",
                RuntimeWarning,
                stacklevel=2,
            )

    def fits(self, batch: Batch, done: Container[Key]) -> bool:
        """Whether one more batch fits into the limit, however long its answers become.

        Where what waits to be written may not fit beside it, that is written first, and then its size is known.
        `refused` then says why not.
        """
        if self._limit is None:
            return True
        sizes, jobs = self._sizes, [job for job in batch if not job.is_done(done)]
        coming = sizes.shard_bytes + sum(sizes.most_bytes(*each) for job in jobs for each in job.lengths(self._longest))
        now = self._layout.written()
        waiting = now.queued_bytes + now.queued_records * (sizes.line_bytes + STORED)
        waiting += sizes.shard_bytes if waiting else 0
        if now.bytes_on_disk + waiting + coming <= self._limit:
            return True
        self._layout.flush()
        taken = self._layout.written().bytes_on_disk
        if taken + coming <= self._limit:
            return True
        self.refused = (
            f"the folder may take {decimal(self._limit)} and has {decimal(taken)}; "
            f"the next {len(jobs)} answers could take {decimal(coming)}"
        )
        return False
