"""The sequences that are growing at this moment, and which of them a KV cache belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from actframe.capture.kept import KeptRows
from actframe.capture.selection import Scratch, Selection
from actframe.capture.sequence import SequenceGroup

__all__ = ["Groups"]


class Groups:
    """Groups of sequences, in the order in which they began.

    Args:
        selection: what is kept of each tensor.
        scratch: memory of an earlier recording, or None.
        describe: says how the model computes at this moment.
        keep: makes what keeps the rows of a group.

    Attributes:
        prompts: of the sequences that begin next, how long each row's prompt is; None where the first forward pass is
            the prompt.
    """

    def __init__(
        self,
        selection: Selection,
        scratch: Scratch | None,
        describe: Callable[[], dict[str, Any]],
        keep: Callable[[Scratch], KeptRows] = KeptRows,
    ) -> None:
        self._selection = selection
        self._describe = describe
        self._keep = keep
        self._growing: list[SequenceGroup] = []
        self._begun = 0
        self._spare = scratch
        self.prompts: list[int] | None = None

    def __iter__(self) -> Iterator[SequenceGroup]:
        return iter(list(self._growing))

    def __contains__(self, group: SequenceGroup) -> bool:
        return any(each is group for each in self._growing)

    def new(self, within: SequenceGroup | None = None) -> SequenceGroup:
        """A group that begins now, or with the one that it runs within; it does not grow until it is added."""
        group = SequenceGroup(*self.beginning())
        group.number = within.number if within is not None else group.number
        return group

    def beginning(self) -> tuple[int, Selection, KeptRows, dict[str, Any]]:
        """What a group that begins now is made of."""
        self._begun += 1
        spare, self._spare = self._spare or Scratch(), None
        return self._begun, self._selection, self._keep(spare), self._describe()

    def add(self, group: SequenceGroup, before: SequenceGroup | None = None) -> None:
        """Let a group grow; it comes last, or before another one."""
        group.prompts = self.prompts
        places = [number for number, each in enumerate(self._growing) if each is before]
        self._growing.insert(places[0] if places else len(self._growing), group)

    def seen_within(self, group: SequenceGroup) -> list[SequenceGroup]:
        """What towers beside the language model saw in the forward passes of a group, and still wait with."""
        return [each for each in self._growing if each is not group and each.number == group.number]

    def remove(self, group: SequenceGroup) -> None:
        """Let a group grow no longer."""
        self._growing = [each for each in self._growing if each is not group]

    def release(self, group: SequenceGroup) -> None:
        """Forget what a group has recorded; its memory is for the next one."""
        self.remove(group)
        self._spare = group.release()

    def owner(self, cache: Any) -> SequenceGroup | None:
        """The group whose last call filled a cache."""
        return next((group for group in self._growing if group.owns(cache)), None)

    def take_scratch(self) -> Scratch | None:
        """The memory for a recording to come; this one is over."""
        return self._spare

    def rows_moved(self, cache: Any, rows: Callable[[int], list[int]], *, others_ended: bool) -> None:
        """Rows of a KV cache were reordered, selected or repeated: see `CacheListener`."""
        if (group := self.owner(cache)) is not None:
            group.move_rows(rows(len(group.rows)), others_ended=others_ended)

    def cache_copied(self, cache: Any, copied: Any) -> None:
        """A KV cache was copied; the copy may be continued as well."""
        if (group := self.owner(cache)) is not None:
            self._begun += 1
            twin = group.copy(self._begun, Scratch())
            twin.keep_to(copied)
            self.add(twin)
