"""What a call of `generate` asked for and returned: where prompts end, and where each row ends.

The sequences that `generate` returns decide what belongs to the answer: the columns that were fed exactly their
tokens. Everything else that ran meanwhile (rejected drafts, beams given up, an unconditional branch) is not.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from actframe.capture.batches import RecordedSequence, known_ids
from actframe.capture.calls import filled_slots, own_cache
from actframe.capture.matching import Returned, find_columns
from actframe.capture.sequence import SequenceGroup
from actframe.errors import CaptureError

__all__ = ["Generation"]


class Generation:
    """One call of `generate`, from its arguments.

    Attributes:
        groups: the sequences that were computed meanwhile.
        seen: what towers beside the language model saw meanwhile; it is delivered before the answers.
        prompt_width: how many slots of the cache are prompt; None where the first call of a sequence tells.
        thread: where it runs.
        depth: how many calls of `generate` run within it.

    Raises:
        CaptureError: it asks for what transformers would not compute, said before anything runs.
    """

    def __init__(self, model: nn.Module, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        given = _arguments(generate, args, kwargs)
        self._settings = _settings(model, given)
        if self._settings("cache_implementation") == "paged":
            raise CaptureError(
                "generate(cache_implementation='paged') takes the padding of its prompts for tokens; "
                "call generate_batch with lists of ids"
            )
        self.groups: list[SequenceGroup] = []
        self.seen: list[SequenceGroup] = []
        self.thread = threading.get_ident()
        self.depth = 0
        self._encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        ids = given.get("inputs") if given.get("inputs") is not None else given.get("input_ids")
        embeds = given.get("inputs_embeds")
        self._returned_width = ids.shape[1] if isinstance(ids, Tensor) and ids.ndim == 2 else 0
        self._fed_embeddings = isinstance(embeds, Tensor)
        fed_width = embeds.shape[1] if isinstance(embeds, Tensor) else self._returned_width
        if not self._encoder_decoder and not self._fed_embeddings:
            fed_width += _slots_before(given, fed_width)
        self.prompt_width = None if self._encoder_decoder or not fed_width else fed_width
        mask = given.get("attention_mask")
        has_own = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == self._returned_width == fed_width
        self._real = (mask != 0).tolist() if mask is not None and has_own and not self._encoder_decoder else None
        self._may_stop_early = bool(given.get("stopping_criteria") or self._settings("stop_strings"))

    def forget(self, group: SequenceGroup) -> None:
        """Go on without a group that was given up, if it is one of these."""
        for own in (self.groups, self.seen):
            if group in own:
                own.remove(group)

    def finish(self, result: Any) -> list[RecordedSequence]:
        """The columns and tokens of each returned sequence.

        Raises:
            CaptureError: no recorded rows were fed exactly its tokens, or several were.
        """
        returned = result.get("sequences") if isinstance(result, Mapping) else result
        if not isinstance(returned, Tensor) or returned.ndim != 2:
            raise CaptureError(
                f"generate() returned {type(result).__name__}, not sequences (batch, length); "
                "what belongs to the answer cannot be told"
            )
        sequences = returned.tolist()
        each = self._settings("num_return_sequences") or 1
        items = max(1, len(sequences) // each)
        return [
            self._record(tokens, (number * items // len(sequences), items), (number, len(sequences)))
            for number, tokens in enumerate(sequences)
        ]

    def _record(self, tokens: list[int], item: tuple[int, int], number: tuple[int, int]) -> RecordedSequence:
        """One returned sequence. Its last token was never fed back, or is of no account."""
        width = self._prompt_end()
        response = self._cut(tokens[width:], alone=number[1] == 1)
        before = self.prompt_width - width if self.prompt_width is not None else 0
        real = self._real[item[0]] if self._real is not None and len(self._real) == item[1] else None
        prompt_width = 0 if self._encoder_decoder else width
        whole = Returned([*tokens[:width], *response], prompt_width, before, item, number, real)
        found = find_columns(whole, self.groups)
        prompt = found.chain[: found.group.prompt_length(found.chain)]
        ids = found.group.tokens(prompt)
        if found.group.before and not self._fed_embeddings:
            # What others put into the cache is known from the prompt, where that is given whole.
            places = [slot - before for slot in found.group.slots(prompt)]
            ids = [tokens[place] if place >= 0 else token for place, token in zip(places, ids, strict=True)]
        return RecordedSequence(found.group, found.origin, found.chain, known_ids(ids), response)

    def _prompt_end(self) -> int:
        """How many tokens of each returned sequence are prompt."""
        if not self._encoder_decoder:
            return self._returned_width
        return next((group.prompt_width for group in self.groups if not group.is_draft), 1)

    def _cut(self, response: list[int], *, alone: bool) -> list[int]:
        """End a row at its own end of sequence; what follows was fed only because other rows went on."""
        ends = _as_list(self._settings("eos_token_id"))
        for index, token in enumerate(response):
            if token in ends:
                return response[: index + 1]
        padding = self._settings("pad_token_id")
        if self._may_stop_early and padding is not None and not alone:
            while len(response) > 1 and response[-1] == padding:
                response = response[:-1]
        return response


def _slots_before(given: Mapping[str, Any], width: int) -> int:
    """How many slots of a given cache come before the given ids, which continue it; 0 where they begin with its tokens.

    Raises:
        CaptureError: `generate` would feed the wrong part of the ids.
    """
    cache = own_cache(given)
    filled = filled_slots(cache) or 0
    if not filled:
        return 0
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape[-1] != width:
        return filled
    if width <= filled:
        raise CaptureError(
            f"generate() was given {width} ids and a KV cache of {filled} positions, and would take the ids for the "
            "whole sequence, whose beginning the cache holds; pass the ids of the whole sequence, or new ids with an "
            "attention_mask that is as long as cache and ids together"
        )
    return 0


def _arguments(generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, also where `generate` was overridden with `*args, **kwargs`."""
    signature = inspect.signature(generate)
    bound = signature.bind(*args, **kwargs).arguments
    given: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            given.update(zip(("inputs", "generation_config"), value, strict=False))
        else:
            given[name] = value
    return given


def _settings(model: nn.Module, given: dict[str, Any]) -> Callable[[str], Any]:
    """Look a generation setting up where `generate` does: its arguments, then the configuration."""
    defaults = getattr(model, "generation_config", None)
    config = given.get("generation_config") or defaults

    def setting(name: str) -> Any:
        if name in given:
            return given[name]
        value = getattr(config, name, None)
        return value if value is not None else getattr(defaults, name, None)

    return setting


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple | set) else [value]
