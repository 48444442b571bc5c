"""Selection: what is kept. The one place where a tensor is sliced, cast, detached and copied.

Whatever leaves this module is detached, on the CPU, contiguous, and owns its memory. Slicing happens on the model's
device, before the copy.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from actframe.capture import sites as site_names
from actframe.capture.scratch import Scratch
from actframe.errors import SelectionError, SiteError

__all__ = ["Scratch", "Selection", "SiteBuffer", "Sites", "count_overflows"]

Sites = str | int | Sequence[str | int]
Positions = Literal["all", "prompt", "response", "last_prompt", "last"] | slice | Sequence[int]

_NAMED = ("all", "prompt", "response", "last_prompt", "last")
_REDUCTIONS = ("mean", "max")


@dataclass(frozen=True)
class Selection:
    """Which sites, which positions, and as what.

    Attributes:
        sites: None for embeddings and all layers of the language model; the number of one of its layers (negative:
            from the end), a site name or pattern, or a list of these.
        positions: `"all"`, `"prompt"`, `"response"`, `"last_prompt"`, `"last"`, a slice, or a list of positions.
            Negative numbers count from the end of the finished sequence; positions that a sequence does not have are
            left out, as slicing does, and the record's `positions` say which there are.
        reduce: `"mean"` or `"max"` over the selected positions, which leaves one row; None keeps all.
        dtype: what to cast floating tensors to (`torch.float16` or `"float16"`); None keeps them as computed.

    Raises:
        SelectionError: a value that means nothing.
    """

    sites: Sites | None = None
    positions: Positions = "all"
    reduce: Literal["mean", "max"] | None = None
    dtype: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        if self.reduce is not None and self.reduce not in _REDUCTIONS:
            raise SelectionError(f"no reduction {self.reduce!r}; there are {', '.join(_REDUCTIONS)}, or None for none")
        _check_sites(self.sites)
        _check_positions(self.positions)
        object.__setattr__(self, "dtype", _dtype(self.dtype))

    @classmethod
    def of(cls, select: Selection | Sites | None) -> Selection:
        """The selection that `ActivationRecorder(select=...)` means."""
        return select if isinstance(select, Selection) else cls(sites=select)

    def resolve(self, known: Sequence[str], refusal: Callable[[str], str | None]) -> list[str]:
        """The selected sites of a model, in the order of `known`, without duplicates.

        Args:
            known: every site of the model.
            refusal: why a site cannot be taken as the model is loaded, or None. A site that was asked for by its
                name or number is then an error; a pattern, and the default, leave it out.

        Raises:
            SiteError: a layer or site that the model does not have, or cannot give.
        """
        if self.sites is None:
            stream = site_names.of_main_towers(known)
            return _takeable(stream or site_names.expand("layer_*", known), refusal)
        found: set[str] = set()
        for site in [self.sites] if isinstance(self.sites, str | int) else self.sites:
            if isinstance(site, str):
                found.update(_takeable(site_names.expand(site, known), refusal))
            else:
                for name in site_names.layer_site(site, known):
                    found.update(_takeable([name], refusal))
        return [site for site in known if site in found]

    def may_keep(self, start: int, stop: int, prompt_length: int) -> range | list[int]:
        """Of the positions `start` to `stop` of an unfinished sequence, those that the finished one may need.

        The finished sequence is at least `prompt_length` long, which bounds what counts from its end.
        """
        positions = self.positions
        if positions == "all":
            return range(start, stop)
        if positions == "prompt":
            return range(start, min(stop, prompt_length))
        if positions == "response":
            return range(max(start, prompt_length), stop)
        if positions == "last_prompt":
            return range(max(start, prompt_length - 1), min(stop, prompt_length))
        if positions == "last":
            return range(max(start, prompt_length - 1), stop)
        if isinstance(positions, slice):
            first, end = positions.start or 0, positions.stop
            first = first if first >= 0 else max(0, prompt_length + first)
            end = stop if end is None or end < 0 else end
            return range(max(start, first), min(stop, end))
        fixed = {position for position in positions if position >= 0}
        tail = min(positions, default=0)
        floor = prompt_length + int(tail) if int(tail) < 0 else stop
        return [position for position in range(start, stop) if position in fixed or position >= floor]

    def choose(self, length: int, prompt_length: int) -> list[int]:
        """The selected positions of a finished sequence, ascending."""
        positions = self.positions
        everything = range(length)
        if isinstance(positions, slice):
            return list(everything[positions])
        if isinstance(positions, str):
            named = {
                "all": everything,
                "prompt": everything[:prompt_length],
                "response": everything[prompt_length:],
                "last_prompt": everything[:prompt_length][-1:],
                "last": everything[-1:],
            }
            return list(named[positions])
        return sorted({p % length for p in positions if -length <= p < length})

    def finish(self, rows: Tensor, site: str, axis: int = 0) -> Tensor:
        """Reduce and cast the selected rows of one finished sequence; `rows` is owned by the caller.

        Warns where a finite value does not fit the dtype that was asked for.
        """
        if self.reduce is not None and rows.shape[axis]:
            wide = rows.float() if rows.is_floating_point() and rows.element_size() < 4 else rows
            reduced = wide.mean(axis, keepdim=True) if self.reduce == "mean" else wide.amax(axis, keepdim=True)
            rows = reduced.to(rows.dtype)
        if not isinstance(self.dtype, torch.dtype) or not rows.is_floating_point() or rows.dtype == self.dtype:
            return rows
        if lost := count_overflows(rows, self.dtype):
            warnings.warn(
                f"{site}: {lost} of {rows.numel()} values do not fit {self.dtype} and became infinite or were clipped",
                RuntimeWarning,
                stacklevel=2,
            )
        return rows.to(self.dtype)

    def finish_all(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same for the rows of several sites."""
        if self.reduce is None and self.dtype is None:
            return rows
        return {site: self.finish(own, site) for site, own in rows.items()}

    def as_json(self) -> dict[str, Any]:
        """The selection in JSON-safe form."""
        positions = self.positions
        if isinstance(positions, slice):
            positions = f"{positions.start or ''}:{'' if positions.stop is None else positions.stop}"  # type: ignore[assignment]
        return {
            "sites": self.sites,
            "positions": positions if isinstance(positions, str) else list(positions),  # type: ignore[arg-type]
            "reduce": self.reduce,
            "dtype": None if self.dtype is None else str(self.dtype).removeprefix("torch."),
        }


def count_overflows(rows: Tensor, dtype: torch.dtype) -> int:
    """How many finite values of a floating tensor do not fit a dtype."""
    limit = torch.finfo(dtype).max
    return int(((rows.abs() > limit) & rows.isfinite()).sum()) if limit < torch.finfo(rows.dtype).max else 0


class SiteBuffer:
    """The kept rows of one site for a group of sequences that grow.

    Rows lie in segments. The first is as long as what the first call brought; each later one is as long as all
    before it together, so that growing moves nothing.

    Args:
        scratch: where the segments are taken from.
        first: rows to begin with, as the first segment; they are the buffer's from now on.
    """

    def __init__(self, scratch: Scratch, first: Tensor | None = None) -> None:
        self._scratch = scratch
        self._segments: list[Tensor] = [] if first is None else [first]
        self._starts: list[int] = [] if first is None else [0]
        self.length = 0 if first is None else first.shape[0]

    def append(self, rows: Tensor) -> None:
        """Copy rows `(n, ...)` from any device; their trailing shape and dtype must stay the same."""
        self._check(rows)
        taken, count = 0, rows.shape[0]
        copy = self._scratch.copies.begin if rows.is_cuda else Tensor.copy_
        if not self._segments:
            self._add(rows, count)
        while taken < count:
            offset = self.length - self._starts[-1]
            room = min(len(self._segments[-1]) - offset, count - taken)
            if not room:
                self._add(rows, max(count - taken, self.length))
                continue
            copy(self._segments[-1][offset : offset + room], rows[taken : taken + room])
            taken += room
            self.length += room

    def take(self, cells: list[int]) -> Tensor:
        """A new tensor of the rows that came as number `cells`, ascending."""
        self._scratch.copies.wait()
        pieces, first = [], 0
        while first < len(cells):
            number = bisect_right(self._starts, cells[first]) - 1
            start, segment = self._starts[number], self._segments[number]
            stop = bisect_left(cells, start + len(segment), first)
            pieces.append(_rows(segment, [cell - start for cell in cells[first:stop]]))
            first = stop
        if len(pieces) == 1:
            return pieces[0].clone()
        return torch.cat(pieces) if pieces else self._segments[0].new_empty((0, *self._segments[0].shape[1:]))

    def copy(self, scratch: Scratch) -> SiteBuffer:
        """The same rows in memory of their own."""
        copied = SiteBuffer(scratch)
        if self.length:
            copied.append(self.take(list(range(self.length))))
        return copied

    def _add(self, rows: Tensor, count: int) -> None:
        self._starts.append(self.length)
        self._segments.append(self._scratch.new((count, *rows.shape[1:]), rows.dtype, pinned=rows.is_cuda))

    def _check(self, rows: Tensor) -> None:
        if self._segments:
            known = self._segments[0]
            if known.shape[1:] != rows.shape[1:] or known.dtype != rows.dtype:
                raise ValueError(
                    f"rows of {tuple(rows.shape[1:])} {rows.dtype} after {tuple(known.shape[1:])} {known.dtype}"
                )


def _rows(segment: Tensor, cells: list[int]) -> Tensor:
    first, last = cells[0], cells[-1]
    return segment[first : last + 1] if last - first + 1 == len(cells) else segment[cells]


def _takeable(sites: list[str], refusal: Callable[[str], str | None]) -> list[str]:
    takeable = [site for site in sites if refusal(site) is None]
    if not takeable:
        raise SiteError(f"{sites[0]} {refusal(sites[0])}")
    return takeable


def _check_sites(sites: Any) -> None:
    if sites is None:
        return
    listed = [sites] if isinstance(sites, str) or not isinstance(sites, Sequence) else sites
    for site in listed:
        if isinstance(site, bool) or not isinstance(site, str | int):
            raise SelectionError(f"a site is a name, a pattern or a layer number, or a list of these; not {site!r}")
    if not listed:
        raise SelectionError("the selection names no sites; leave it out to record embeddings and all layers")


def _check_positions(positions: Any) -> None:
    if isinstance(positions, str):
        if positions not in _NAMED:
            raise SelectionError(
                f"no positions {positions!r}; there are {', '.join(_NAMED)}, a slice, or a list of int"
            )
    elif isinstance(positions, slice):
        bounds = [positions.start, positions.stop, positions.step]
        if not all(bound is None or isinstance(bound, int) for bound in bounds) or positions.step not in (None, 1):
            raise SelectionError(f"{positions} is not a slice of whole positions in steps of 1")
    elif not isinstance(positions, Sequence) or not positions or not all(type(p) is int for p in positions):
        raise SelectionError(
            f"positions are one of {', '.join(_NAMED)}, a slice, or a list of one or more int; not {positions!r}"
        )


def _dtype(name: torch.dtype | str | None) -> torch.dtype | None:
    if name is None or isinstance(name, torch.dtype):
        found = name
    else:
        found = getattr(torch, str(name).removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise SelectionError(f"torch has no dtype {name!r}; try float32, float16 or bfloat16")
    if found is not None and not found.is_floating_point:
        raise SelectionError(f"activations can be cast to a floating dtype, not to {found}")
    return found
