"""What plain hooks see: torch's own, on the modules of the layout, with no code of the recorder in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actframe.capture.layout import ModelLayout
from actframe.testing.proofs.report import Difference

__all__ = ["Axes", "Reference", "first_difference", "keys", "same_bits"]

Tap = tuple[str, str, int]
"""A module's path, `"input"` or `"output"`, and which item of it."""


class Reference:
    """Hooks that copy what passes by, while the block runs.

    They are registered when the first forward pass begins, so that they come after every other hook on their modules:
    what they see is what the next module gets.

    Args:
        model: whose modules.
        layout: where its sites are. The residual streams are those of the towers' blocks, in order.
        sites: which to look at.
    """

    def __init__(self, model: nn.Module, layout: ModelLayout, sites: Iterable[str]) -> None:
        self._model = model
        self._roots = {"", *(tower.root for tower in layout.towers)}
        self._taps: dict[str, tuple[Tap, int, int]] = {}
        streams = _streams(layout)
        for site in sites:
            place = layout.places[site]
            own = (place.module, place.side, place.item), place.call, place.calls
            self._taps[site] = streams.get(site, own)
        self._seen: dict[Tap, list[Tensor]] = {}
        self._handles: list[Any] = []
        self._begun = False

    def __enter__(self) -> Reference:
        for root in self._roots:
            self._handles.append(self._model.get_submodule(root).register_forward_pre_hook(self._begin))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def calls(self, site: str) -> list[Tensor]:
        """What the site was in each forward pass, as the module had it."""
        # What a block gives in several rounds are several layers; what enters it first is the embeddings.
        tap, number, rounds = self._taps[site]
        return self._seen.get(tap, [])[number::rounds]

    def _begin(self, module: nn.Module, args: Any) -> None:
        if self._begun:
            return
        self._begun = True
        for tap in {tap for tap, *_ in self._taps.values()}:
            path, side, item = tap
            target = self._model.get_submodule(path)
            kept = self._seen.setdefault(tap, [])
            if side == "input":
                self._handles.append(target.register_forward_pre_hook(_keep_input(kept), with_kwargs=True))
            else:
                self._handles.append(target.register_forward_hook(_keep_output(kept, item)))


def _streams(layout: ModelLayout) -> dict[str, tuple[Tap, int, int]]:
    """The residual streams, from the list of blocks alone; a block that runs for several layers is counted."""
    found: dict[str, tuple[Tap, int, int]] = {}
    rounds = Counter(path for tower in layout.towers for path in tower.blocks)
    for tower in layout.towers:
        first = tower.blocks[0]
        found[f"{tower.prefix}embeddings"] = (first, "input", 0), 0, rounds[first]
        met: Counter[str] = Counter()
        for index, path in enumerate(tower.blocks):
            found[f"{tower.prefix}layer_{index}"] = (path, "output", 0), met[path], rounds[path]
            met[path] += 1
    return found


def _keep_output(kept: list[Tensor], item: int) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        kept.append(_copy(output[item] if isinstance(output, tuple | list) else output))

    return hook


def _keep_input(kept: list[Tensor]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        if given is None:
            given = next(value for value in kwargs.values() if isinstance(value, Tensor))
        kept.append(_copy(given))

    return hook


def _copy(value: Any) -> Tensor:
    while not isinstance(value, Tensor):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    copied: Tensor = value.detach().to("cpu", copy=True)
    return copied


class Axes:
    """Where rows and positions are among a site's axes, learned where their numbers are like no others."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int] | None] = {}

    def learn(self, site: str, tensor: Tensor, rows: int, width: int | None) -> None:
        """Learn from a pass of so many rows and positions, where they can be told; of pictures nobody knows these."""
        sizes = list(tensor.shape)
        if width is None:
            if len(sizes) == 3 and sizes[0] == rows:
                self._known[site] = (0, 1)
        elif sizes.count(rows) == 1 and sizes.count(width) == 1:
            self._known[site] = (sizes.index(rows), sizes.index(width))
        elif sizes and sizes[0] == rows * width:
            self._known[site] = None

    def knows(self, site: str) -> bool:
        """Whether the axes of a site were learned."""
        return site in self._known

    def arrange(self, site: str, tensor: Tensor, rows: int) -> Tensor:
        """A site's tensor as `(rows, positions, ...)`."""
        axes = self._known[site]
        return tensor.reshape(rows, -1, *tensor.shape[1:]) if axes is None else tensor.movedim(axes, (0, 1))

    def columns(self, site: str, calls: Sequence[Tensor]) -> Tensor:
        """Every column of some passes, one after another, whatever rows they are of: `(column, ...)`."""
        axes = self._known[site]
        return torch.cat([call if axes is None else call.movedim(axes, (0, 1)).flatten(0, 1) for call in calls])


def first_difference(
    site: str, found: Tensor, expected: Tensor, positions: Sequence[int], row: int | None = None
) -> Difference | None:
    """Where a site's rows are not bit for bit the expected ones."""
    # Streams that lie beside each other in one axis are recorded as an axis of their own.
    if found.flatten(1).shape != expected.flatten(1).shape or found.dtype != expected.dtype:
        what = f"recorded {_kind(found)}, where the module gives {_kind(expected)}"
        return Difference(what, site, row=row)
    if not found.numel():
        return None
    same = (_bits(found) == _bits(expected)).all(1)
    if bool(same.all()):
        return None
    index = int(same.int().argmin())
    size = float((found[index].double().flatten() - expected[index].double().flatten()).abs().max())
    what = "recorded is not what the module gives"
    elsewhere = (_bits(expected) == _bits(found)[index]).all(1).nonzero().flatten().tolist()
    if elsewhere:
        what += f", but what it gives at position {positions[elsewhere[0]]}"
    return Difference(what, site, positions[index], row, size)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, bit for bit."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return not one.numel() or bool((_bits(one[None]) == _bits(other[None])).all())


def keys(tensor: Tensor) -> Tensor:
    """A number for each of `(n, ...)`, which is the same where all bits are, and else not as far as anybody lives."""
    bits = _bits(tensor).long()
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=torch.Generator().manual_seed(0))
    return bits @ factors


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(len(tensor), -1).view(torch.uint8)
