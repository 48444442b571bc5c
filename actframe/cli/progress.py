"""The progress bar of a benchmark run."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actframe.cli.console import stderr

if TYPE_CHECKING:
    from actframe.runs.run import RunProgress

__all__ = ["RunBar"]


class RunBar:
    """Shows how far a run has come, on stderr; give it to `BenchmarkRun.execute`.

    Where stderr is no terminal it prints the last state once, when the block ends.
    """

    def __init__(self, description: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=stderr(),
            expand=True,
        )
        self._task = self._progress.add_task(description, total=None, figures="")

    def __enter__(self) -> RunBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | Any
    ) -> None:
        self._progress.stop()

    def __call__(self, now: RunProgress) -> None:
        """Show a new state."""
        figures = [f"accuracy {now.accuracy:.0%}", f"{now.tokens_per_second:.0f} tokens/s"] if now.done else []
        if now.written.bytes_on_disk:
            figures.append(f"{decimal(now.written.bytes_on_disk)} on disk")
        self._progress.update(self._task, completed=now.done, total=now.total, figures=" ".join(figures))
