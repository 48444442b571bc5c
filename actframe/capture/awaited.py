"""The gradient at one site of one forward pass, which a backward pass brings later."""

from __future__ import annotations

import functools
import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from actframe.capture.calls import Call
from actframe.capture.kept import Arrivals, kept_there, rows_there
from actframe.capture.parts import Place
from actframe.capture.patterns import PatternBuffer
from actframe.errors import CaptureError

__all__ = ["AwaitedGradient"]


class AwaitedGradient:
    """The gradient of one tensor: what is kept of it, once a backward pass has brought it. Further ones are added.

    It holds nothing of the graph, which holds it.

    Attributes:
        site: whose gradient it is.
        has_come: whether there is one.
        patterns: the gradient of an attention pattern, from each backward pass.
    """

    def __init__(self, site: str, place: Place, call: Call, arrivals: Arrivals) -> None:
        self.site = site
        self.has_come = False
        self.patterns: list[PatternBuffer] = []
        self._place = place
        self._call = Call(call.rows, call.width, start=call.start)
        self._arrivals = arrivals
        self._there: dict[int, int] | None = None
        self._rows: Tensor | None = None
        self._lock = threading.Lock()
        self._hook: Callable[[], Any] = _none
        self._remove: Callable[[], None] = _none

    @property
    def can_come(self) -> bool:
        """Whether the graph still holds the hook that brings it."""
        return self._hook() is not None

    @classmethod
    def all_of(cls, tensor: Tensor) -> list[AwaitedGradient]:
        """Those that a tensor's gradient is awaited by."""
        hooks = (tensor._backward_hooks or {}).values()
        return [hook.args[0] for hook in hooks if isinstance(hook, functools.partial) and hook.func is cls._take]

    def listen(self, tensor: Tensor) -> None:
        """Take the gradient of this tensor when a backward pass computes it, whichever thread that runs in."""
        hook = functools.partial(AwaitedGradient._take, self)
        self._remove = tensor.register_hook(hook).remove  # type: ignore[no-untyped-call]
        self._hook = weakref.ref(hook)

    def give_way(self) -> None:
        """Take none any more, because the same tensor has entered another forward pass, whose gradient is to come.

        Raises:
            CaptureError: this one has not come yet, and would be the sum of both.
        """
        if not self.has_come:
            raise CaptureError(
                f"gradients=True, and {self.site} is the very tensor of an earlier forward pass that has had no "
                "backward(), so its gradient would be the sum over both; call backward() before the next pass, or give "
                "each pass a copy of its own (inputs_embeds=embeds.clone())"
            )
        self.let_go()

    def let_go(self) -> None:
        """Take none any more."""
        self._remove()
        self._remove = self._hook = _none

    def of(self, cells: list[int]) -> tuple[Tensor, list[int]]:
        """The rows of those cells, ascending, that are here, and which of the cells these are."""
        assert self._rows is not None
        first = self._arrivals.first_cell
        begin, end = bisect_left(cells, first), bisect_left(cells, first + self._arrivals.count)
        there = self._there
        if there is None:
            return self._rows[[cell - first for cell in cells[begin:end]]], list(range(begin, end))
        places = [place for place in range(begin, end) if cells[place] in there]
        return self._rows[[there[cells[place]] for place in places]], places

    def _take(self, gradient: Tensor | None) -> None:
        if gradient is None:  # of an output that nothing uses, beside one that the loss depends on
            return
        with self._lock, torch.no_grad():
            if self._place.axes == "pattern":
                self.patterns.append(PatternBuffer())
                self.patterns[-1].append(gradient, self._arrivals.columns, self._arrivals.first_cell, self._call)
            else:
                self._add(gradient)
            self.has_come = True

    def _add(self, gradient: Tensor) -> None:
        rows, there = rows_there(self.site, self._place, gradient, self._call)
        columns = self._arrivals.columns
        if there is not None:
            chosen = kept_there(there, self._call, self._arrivals)
            rows = rows[list(chosen.values())]
            self._there = {cell: number for number, cell in enumerate(chosen)}
        elif columns is not None:
            rows = rows[columns.to(rows.device)]
        if self._rows is None:
            self._rows = rows.to("cpu", copy=True)
        else:
            self._rows += rows.cpu()


def _none() -> None:
    return None
