"""Recording while a model is trained: tensors that stay attached to the graph, and the gradient at each site."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from actframe.capture.awaited import AwaitedGradient
from actframe.capture.calls import Call
from actframe.capture.kept import Arrivals, KeptRows
from actframe.capture.parts import Place
from actframe.capture.selection import Scratch, SiteBuffer
from actframe.capture.sites import GRADIENT, summarise
from actframe.errors import CaptureError

__all__ = ["Training", "TrainingOptions"]


class TrainingOptions(TypedDict, total=False):
    """What an `ActivationRecorder` takes for training.

    Attributes:
        keep_graph: whether recorded tensors stay attached to the autograd graph.
        gradients: whether the gradient at each site is recorded.
    """

    keep_graph: bool
    gradients: bool


@dataclass(frozen=True)
class Training:
    """What a recorder keeps of the graph.

    Attributes:
        model: what is recorded.
        keep_graph: whether recorded tensors stay attached to the autograd graph.
        gradients: whether the gradient at each site is recorded.
    """

    model: nn.Module
    keep_graph: bool = False
    gradients: bool = False
    _listening: weakref.WeakSet[AwaitedGradient] = field(default_factory=weakref.WeakSet, repr=False)

    @classmethod
    def of(cls, model: nn.Module, options: Mapping[str, Any]) -> Training:
        """What these keyword arguments of the recorder ask for."""
        if unknown := options.keys() - TrainingOptions.__annotations__.keys():
            raise TypeError(f"ActivationRecorder got an unexpected keyword argument {min(unknown)!r}")
        return cls(model, **options)

    def names(self, sites: Iterable[str]) -> list[str]:
        """The sites that a record has, where these are selected."""
        return [name for site in sites for name in ([site, site + GRADIENT] if self.gradients else [site])]

    def rows(self, scratch: Scratch) -> KeptRows:
        """What keeps the rows of a group."""
        return _TrainingRows(scratch, self) if self.keep_graph or self.gradients else KeptRows(scratch)

    def reading(self) -> AbstractContextManager[Any]:
        """How records are made, whatever mode the caller is in."""
        if self.keep_graph:
            return torch.enable_grad()
        # Not inference tensors, even inside inference mode: people train probes on them.
        return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()

    def await_gradient(self, awaited: AwaitedGradient, tensor: Tensor) -> None:
        """Let a gradient be taken when the backward pass brings it.

        Raises:
            CaptureError: this very tensor has entered a forward pass before, whose gradient has not come.
        """
        for earlier in AwaitedGradient.all_of(tensor):
            if earlier.site == awaited.site and earlier in self._listening:
                earlier.give_way()
        awaited.listen(tensor)
        self._listening.add(awaited)

    def let_go(self) -> None:
        """Take no gradient any more: the graph may live on."""
        for awaited in list(self._listening):
            awaited.let_go()

    def check(self, site: str, tensor: Tensor) -> None:
        """Refuse a tensor that is not part of a graph though it was asked for.

        Raises:
            CaptureError: it is not; the message says why, and what to do.
        """
        if tensor.requires_grad:
            return
        asked = "gradients=True" if self.gradients else "keep_graph=True"
        if not torch.is_grad_enabled():
            raise CaptureError(
                f"{asked}, and {site} was computed without a graph: under torch.no_grad() or inference_mode(), as "
                "generate() always is, or inside a checkpoint with use_reentrant=True. Run such passes outside the "
                "block, checkpoint with use_reentrant=False, or leave the site out"
            )
        if self.gradients or not any(parameter.requires_grad for parameter in self.model.parameters()):
            why = "nothing that it is computed from requires a gradient"
            if not (tensor.is_floating_point() or tensor.is_complex()):
                why = f"it is of {tensor.dtype}, which has no gradient"
            raise CaptureError(
                f"{asked}, and {site} does not require grad: {why}. Leave the site out of the selection, or train what "
                "comes before it: parameter.requires_grad_(), or model.enable_input_require_grads() where all of it is "
                "frozen, as with PEFT"
            )


class _TrainingRows(KeptRows):
    """Rows of a group that are attached to the graph, or have gradients, which come later, or both.

    Args:
        scratch: memory for rows that are not attached.
        training: what is kept.
    """

    is_of_training = True

    def __init__(self, scratch: Scratch, training: Training) -> None:
        super().__init__(scratch)
        self._training = training
        self._attached = training.keep_graph
        self._awaited: dict[str, list[AwaitedGradient]] = {}

    @property
    def sites(self) -> list[str]:
        return self._with_gradients(super().sites)

    @property
    def patterns(self) -> list[str]:
        return self._with_gradients(super().patterns)

    def take(self, site: str, place: Place, tensor: Tensor, call: Call, arrivals: Arrivals) -> None:
        self._training.check(site, tensor)
        if self._attached:
            # A checkpoint counts what is saved within it, and would miss ours when it computes its part again.
            with torch.autograd.graph.saved_tensors_hooks(_same, _same):
                super().take(site, place, tensor, call, arrivals)
        else:
            super().take(site, place, tensor, call, arrivals)
        if self._training.gradients:
            awaited = AwaitedGradient(site, place, call, arrivals)
            self._training.await_gradient(awaited, tensor)
            self._awaited.setdefault(site, []).append(awaited)

    def of(self, site: str, cells: list[int]) -> tuple[Tensor, list[int] | None]:
        if not site.endswith(GRADIENT):
            return super().of(site, cells)
        found = [awaited.of(cells) for awaited in self._awaited[site.removesuffix(GRADIENT)] if awaited.has_come]
        return torch.cat([rows for rows, _ in found]), [place for _, places in found for place in places]

    def give_away(self, count: int) -> dict[str, Tensor]:
        return {}

    def pattern_of(self, site: str, cells: list[int], token_slots: list[int]) -> Tensor:
        if not site.endswith(GRADIENT):
            return super().pattern_of(site, cells, token_slots)
        own = [awaited for awaited in self._awaited[site.removesuffix(GRADIENT)] if awaited.has_come]
        # Each has zeros where another has rows, or the rows of one backward pass of several.
        return functools.reduce(
            Tensor.add_, (pattern.take(cells, token_slots) for awaited in own for pattern in awaited.patterns)
        )

    def copy(self, scratch: Scratch) -> KeptRows:
        copied = super().copy(scratch)
        assert isinstance(copied, _TrainingRows)
        copied._awaited = {site: list(awaited) for site, awaited in self._awaited.items()}
        return copied

    def waits(self) -> bool:
        return any(awaited.can_come and not awaited.has_come for awaited in self._all())

    def check_complete(self) -> None:
        lacking = {awaited.site for awaited in self._all() if not awaited.has_come}
        if not lacking:
            return
        sites = summarise([site for site in self._awaited if site in lacking])
        if any(awaited.has_come for awaited in self._all()):
            raise CaptureError(
                f"gradients=True, and backward() gave no gradient to {sites}, because the loss does not depend on all "
                "of it; leave out of the selection what the loss does not depend on"
            )
        raise CaptureError(
            f"gradients=True, and no gradient has come for {sites}: call backward() inside the block, on a loss of the "
            "recorded forward pass, and run passes that have no backward outside of it"
        )

    def release(self) -> Scratch:
        for awaited in self._all():
            awaited.let_go()
        self._awaited = {}
        return super().release()

    def _all(self) -> Iterable[AwaitedGradient]:
        return (awaited for site in self._awaited.values() for awaited in site)

    def _with_gradients(self, sites: list[str]) -> list[str]:
        come = {site for site, awaited in self._awaited.items() if any(each.has_come for each in awaited)}
        return [*sites, *(site + GRADIENT for site in sites if site in come)]

    def _new(self, scratch: Scratch) -> KeptRows:
        return _TrainingRows(scratch, self._training)

    def _new_buffer(self) -> SiteBuffer:
        return _AttachedBuffer(self._scratch) if self._attached else super()._new_buffer()


class _AttachedBuffer(SiteBuffer):
    """Rows in tensors of their own, on the model's device, through which gradients flow back."""

    def append(self, rows: Tensor) -> None:
        self._check(rows)
        self._starts.append(self.length)
        # A copy, which what the model does in place later does not change.
        self._segments.append(rows.clone())
        self.length += rows.shape[0]

    def copy(self, scratch: Scratch) -> SiteBuffer:
        copied = _AttachedBuffer(scratch)
        copied._segments, copied._starts, copied.length = list(self._segments), list(self._starts), self.length
        return copied


def _same(tensor: Tensor) -> Tensor:
    return tensor
