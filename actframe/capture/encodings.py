"""The encodings of an encoder-decoder model, and which of them a decoder attends to."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actframe.capture.sequence import SequenceGroup

__all__ = ["Encodings"]


@dataclass(eq=False)
class _Encoding:
    """What one pass of the encoder gave: its recorded rows, and the states that a decoder may attend to."""

    group: SequenceGroup
    states: Any
    attended: bool = False

    def is_gone(self) -> bool:
        """Whether nobody holds the states any more, so that no decoder can attend to them."""
        return self.states() is None


class Encodings:
    """Encoder passes, newest last, for as long as a decoder may attend to them."""

    def __init__(self) -> None:
        self._known: list[_Encoding] = []
        self._newest: Tensor | None = None

    def add(self, group: SequenceGroup, output: Any) -> None:
        """Take in the rows of a pass that has returned."""
        states = output[0] if isinstance(output, tuple | list) else getattr(output, "last_hidden_state", output)
        if isinstance(states, Tensor):
            self._known.append(_Encoding(group, weakref.ref(states)))
            # generate() repeats the states for several answers, and keeps only the repeated ones.
            self._newest = states

    def attended_by(self, states: Tensor | None) -> SequenceGroup | None:
        """The rows whose states a decoder attends to, each repeated or not; None where they were not recorded."""
        if states is None:
            return None
        for encoding in reversed(self._known):
            known = encoding.states()
            if known is not None and _is_repeated(states, known):
                encoding.attended = True
                return encoding.group
        return None

    def take_unattended(self, *, all_of_them: bool = False) -> list[SequenceGroup]:
        """The rows of encoders that were used alone: those that no decoder can attend to any more, or all."""
        if all_of_them:
            self._newest = None
        over = [each for each in self._known if all_of_them or (each.is_gone() and each.group.is_over())]
        self._known = [encoding for encoding in self._known if encoding not in over]
        return [encoding.group for encoding in over if not encoding.attended]

    def let_go(self) -> None:
        """Hold the newest states no longer: the generation that they were for is over."""
        self._newest = None


def _is_repeated(states: Tensor, known: Tensor) -> bool:
    if states is known:
        return True
    if states.shape[1:] != known.shape[1:] or states.shape[0] % known.shape[0]:
        return False
    repeats = states.shape[0] // known.shape[0]
    return bool(torch.equal(states, known.repeat_interleave(repeats, dim=0) if repeats > 1 else known))
