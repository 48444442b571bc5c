"""Progress bars: of a benchmark run, and of work that goes through bytes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import RenderableType
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from actframe.cli.console import stderr

if TYPE_CHECKING:
    from actframe.runs.layout import Written
    from actframe.runs.progress import RunProgress
    from actframe.runs.text_run import TextProgress

__all__ = ["ByteBar", "RunBar", "TextBar", "WorkBar"]


class WorkBar:
    """Shows how far work has come that writes records, on stderr.

    Below the bar is what is on disk, how fast that grows, and what waits to be written. Where stderr is no terminal
    the last state is printed once, when the block ends.
    """

    def __init__(self, description: str) -> None:
        self._told = False
        self._progress = _Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=stderr(),
            expand=True,
        )
        self._task = self._progress.add_task(description, total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | Any
    ) -> None:
        if kind is not None:
            # What was on its way to the disk is there by now, or lost.
            self._progress.below = ""
        _end(self._progress, self._told)

    def describe(self, description: str) -> None:
        """Say what is done now."""
        self._progress.update(self._task, description=description)

    def _show(self, now: RunProgress | TextProgress, figures: list[str]) -> None:
        self._told = True
        if now.tokens:
            figures.append(f"{now.tokens_per_second:.0f} tokens/s")
        self._progress.below = _disk_line(now.written)
        self._progress.update(self._task, completed=now.done, total=now.total, figures=" ".join(figures))


class RunBar(WorkBar):
    """The bar of a benchmark run; give it to `BenchmarkRun.execute`."""

    def __call__(self, now: RunProgress) -> None:
        """Show a new state."""
        self._show(now, [f"accuracy {now.accuracy:.0%}"] if now.done > now.ungraded else [])


class TextBar(WorkBar):
    """The bar of texts that are captured; give it to `TextRun.execute`, and `look` to `TextRun.survey`."""

    def __call__(self, now: TextProgress) -> None:
        """Show a new state."""
        self._show(now, [])

    def look(self, count: int) -> None:
        """Show how many texts were looked at."""
        self._progress.update(self._task, completed=count)


class ByteBar:
    """Shows how many bytes of how many are done, on stderr; give it to what takes a `progress`.

    Where stderr is no terminal the last state is printed once, when the block ends.

    Attributes:
        done: how many bytes are.
    """

    def __init__(self, description: str) -> None:
        self.done = 0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=stderr(),
            expand=True,
        )
        self._task = self._progress.add_task(description, total=None, speed="")
        self._begun = time.monotonic()

    def __enter__(self) -> ByteBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | Any
    ) -> None:
        _end(self._progress, bool(self.done))

    def __call__(self, done: int, total: int) -> None:
        """Show a new state."""
        self.done = done
        speed = f"{decimal(int(done / max(1e-3, time.monotonic() - self._begun)))}/s"
        self._progress.update(self._task, completed=done, total=total, speed=speed)


class _Bars(Progress):
    """Bars with a line of text below them."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, "dim")


def _end(progress: Progress, has_said: bool) -> None:
    if has_said:
        progress.stop()
    else:
        # Of nothing, there is nothing to say.
        progress.live.transient = True
        progress.live.stop()


def _disk_line(written: Written) -> str:
    if not (written.bytes_on_disk or written.queued_bytes):
        return ""
    parts = [f"{decimal(written.bytes_on_disk)} on disk"]
    if written.bytes_per_second:
        parts.append(f"{decimal(int(written.bytes_per_second))}/s")
    if written.queued_bytes:
        parts.append(f"{decimal(written.queued_bytes)} queued")
    return "  ".join(parts)
