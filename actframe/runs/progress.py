"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from actframe.runs.layout import Written

__all__ = ["RunProgress"]


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come.

    Attributes:
        done: answers so far, those of earlier sittings too.
        total: answers there will be: questions times trials.
        correct: right answers so far.
        tokens: tokens generated in this sitting.
        seconds: time spent generating them.
        earlier: answers that were there before this sitting.
        written: what is on disk, and on its way there.
        ungraded: answers so far of which nobody knows whether they are right.
    """

    done: int
    total: int
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0
    earlier: int = 0
    written: Written = field(default_factory=Written)
    ungraded: int = 0

    @property
    def accuracy(self) -> float:
        """The share of right answers so far, of those that are graded."""
        return self.correct / (self.done - self.ungraded) if self.done > self.ungraded else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, over all rows of a batch."""
        return self.tokens / self.seconds if self.seconds else 0.0
