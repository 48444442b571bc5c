"""ReplayRecorder: whole texts, each batch in one forward pass that ends with the last site that is wanted."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from actframe.capture.base import Emit
from actframe.capture.recorder import ActivationRecorder, Sink
from actframe.capture.selection import Selection, Sites
from actframe.capture.session import Session
from actframe.capture.sites import INPUT, MODULE
from actframe.errors import CaptureError

__all__ = ["ReplayRecorder"]

FEW_TOKENS = 16


class _EndOfPass(Exception):  # noqa: N818 - not an error: everything that is wanted has been computed
    """Raised from a hook, through the forward of the model, to whom it was called by."""


class ReplayRecorder(ActivationRecorder):
    """Records texts that are there already: prompts, or prompts with responses that were written elsewhere.

    A forward pass is ended as soon as every selected site has run: above the last of them nothing is computed, and
    without `logits` among them no logits are. What is recorded is bit for bit what a whole pass would give. Where a
    module may run again later in the pass (`module:` sites), or the sites are those of an encoder, it is not ended;
    and that the others run once is seen in a few tokens, which run through the whole model first.

    Args:
        model: as in `ActivationRecorder`.
        select: the same.
        tokenizer: the same.
        into: gets the records of a pass, in the order of its rows, before `run` returns.
    """

    recorded: ClassVar[str] = "replay"

    def __init__(self, model: nn.Module, select: Selection | Sites | None, *, tokenizer: Any, into: Sink) -> None:
        super().__init__(model, select, tokenizer=tokenizer, into=into)
        self._main = self._layout.towers[-1].prefix if self._layout.towers else ""
        self._taken: list[str] = []
        self._runs_once: bool | None = None

    @property
    def ends_early(self) -> bool:
        """Whether forward passes are ended when every site has run: each runs once, in the tower of the text."""
        named = all(site in self._layout.places for site in self._sites)
        return named and all(place.tower == self._main for place in self._sites.values())

    @property
    def towers(self) -> set[str]:
        """The prefixes of the towers that the selected sites are in."""
        return {place.tower for place in self._sites.values()}

    def run(
        self, arguments: Mapping[str, Any], prompts: Sequence[int] | None = None, through: nn.Module | None = None
    ) -> None:
        """One forward pass; its records are handed over before it returns.

        Args:
            arguments: of the model's forward: ids and mask, padded on the right.
            prompts: how many positions of each row are prompt; None: all of them.
            through: what to call in the place of the model: its encoder.

        Raises:
            CaptureError: as an `ActivationRecorder`'s block.
        """
        session = self._session
        if session is None:
            raise CaptureError("this recorder is not recording; run texts inside its `with` block")
        session.groups.prompts = list(prompts) if prompts is not None else None
        if self._runs_once is None:
            self._runs_once = self.ends_early and self._try_a_few_tokens(session, arguments)
        self._taken = []
        try:
            self._forward(arguments, through)
        except _EndOfPass:
            pass
        finally:
            session.groups.prompts = None
        session.close()

    def _forward(self, arguments: Mapping[str, Any], through: nn.Module | None) -> None:
        forward = self.model if through is None else through
        with torch.no_grad():
            forward(**self._spared(through), **arguments)

    def _try_a_few_tokens(self, session: Session, arguments: Mapping[str, Any]) -> bool:
        """Whether each site runs once in a whole pass, which is not recorded."""
        self._taken = []
        records_this_thread = session.records_this_thread
        session.records_this_thread = _never
        try:
            self._forward({name: values[:1, :FEW_TOKENS] for name, values in arguments.items()}, None)
        finally:
            session.records_this_thread = records_this_thread
        return sorted(self._taken) == sorted(self._sites)

    def _emit_into(self, session: Session) -> Emit:
        def emit(site: str, tensor: Tensor) -> None:
            session.emit(site, tensor)
            self._taken.append(site)
            if self._runs_once and len(self._taken) == len(self._sites):
                session.end(self._main, None)
                raise _EndOfPass

        return emit

    def _spared(self, through: nn.Module | None) -> dict[str, Any]:
        """Arguments that keep a model from computing what nobody will look at: a KV cache, and logits."""
        known = set(inspect.signature((self.model if through is None else through).forward).parameters)
        if through is None and "kwargs" in known:  # a wrapper hands them on
            known |= set(inspect.signature(self._inner.forward).parameters)
        spared: dict[str, Any] = {"use_cache": False} if "use_cache" in known else {}
        if "logits_to_keep" in known and self._is_below_the_head():
            spared["logits_to_keep"] = 1
        return spared

    def _is_below_the_head(self) -> bool:
        """Whether every site is of the module around the blocks, or of one within it."""
        blocks = self._layout.towers[-1].blocks if self._layout.towers else ("",)
        trunk = blocks[0].rpartition(".")[0].rpartition(".")[0]
        paths = (
            site.removeprefix(MODULE).removesuffix(INPUT) if site.startswith(MODULE) else place.module
            for site, place in self._sites.items()
        )
        return bool(trunk) and all(path == trunk or path.startswith(f"{trunk}.") for path in paths)


def _never() -> bool:
    return False
