"""What a call of `generate` asked for and returned: where prompts end, and where each row ends.

The sequences that `generate` returns decide what belongs to the answer: a group of rows is theirs if it was fed
exactly their tokens. Everything else that ran meanwhile (rejected drafts, an unconditional branch) is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from actframe.capture.calls import Call
from actframe.capture.sequence import UNKNOWN, SequenceGroup, known_ids
from actframe.errors import CaptureError

__all__ = ["Finished", "Generation"]


@dataclass(frozen=True)
class Finished:
    """One returned sequence and the row that computed it.

    Attributes:
        group, row: where its activations are.
        input_ids, output_ids: the tokens of the prompt and of the response, unpadded.
        length: how many positions have activations: the last token was never fed back.
    """

    group: SequenceGroup
    row: int
    input_ids: list[int]
    output_ids: list[int]
    length: int


class Generation:
    """One call of `generate`, from its arguments.

    Args:
        model: what generates.
        generate: its `generate`, by whose signature the arguments are read.
    """

    def __init__(self, model: nn.Module, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        given = inspect.signature(generate).bind(*args, **kwargs).arguments
        given = {**given, **given.pop("kwargs", {})}
        self._settings = _settings(model, given)
        beams = self._settings("num_beams") or 1
        if beams > 1:
            raise CaptureError(
                f"generate(num_beams={beams}) reorders rows at every step, which is not recorded yet; "
                "use greedy search or sampling, or run without a recorder"
            )
        self.groups: list[SequenceGroup] = []
        self._encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        ids = given.get("inputs") if given.get("inputs") is not None else given.get("input_ids")
        embeds = given.get("inputs_embeds")
        self._prompt_width = ids.shape[1] if isinstance(ids, Tensor) else 0
        self._fed_width = self._prompt_width or (embeds.shape[1] if isinstance(embeds, Tensor) else 0)
        mask = given.get("attention_mask")
        self._prompt_mask: list[list[int]] | None = (
            mask.tolist() if isinstance(mask, Tensor) and mask.ndim == 2 else None
        )
        self._may_stop_early = any(given.get(name) for name in ("stopping_criteria", "stop_strings"))

    def prompt_lengths(self, call: Call) -> list[int] | None:
        """By row, how many positions of a call's sequences are prompt; None where its first call tells."""
        if self._encoder_decoder or not self._fed_width:
            return None
        if call.start == 0 and call.width >= self._fed_width:
            return [sum(call.is_real(row)[: self._fed_width]) for row in range(call.rows)]
        if self._prompt_mask is not None and call.rows % len(self._prompt_mask) == 0:
            repeats = call.rows // len(self._prompt_mask)
            return [sum(self._prompt_mask[row // repeats]) for row in range(call.rows)]
        return [self._fed_width] * call.rows

    def finish(self, result: Any) -> list[Finished]:
        """Find the rows that computed the returned sequences.

        Raises:
            CaptureError: no rows were fed exactly these tokens, or two groups of rows were.
        """
        returned = result.get("sequences") if isinstance(result, Mapping) else result
        if not isinstance(returned, Tensor) or returned.ndim != 2:
            raise CaptureError(
                f"generate() returned {type(result).__name__}, not sequences (batch, length); "
                "what belongs to the answer cannot be told"
            )
        sequences = returned.tolist()
        matches = [found for group in self.groups if (found := self._match(group, sequences)) is not None]
        if len(matches) != 1:
            fault = "no recorded rows were" if not matches else f"{len(matches)} groups of rows were each"
            raise CaptureError(
                f"{fault} fed the tokens that generate() returned, so the answer's activations cannot be told apart; "
                "this way of generating is not recorded"
            )
        return matches[0]

    def _match(self, group: SequenceGroup, sequences: list[list[int]]) -> list[Finished] | None:
        if group.rows != len(sequences):
            return None
        finished = []
        for row, sequence in enumerate(sequences):
            prompt_length = group.prompt_lengths[row]
            fed = group.tokens[row]
            prompt, response = self._split(group, row, sequence)
            response = self._cut(response, alone=group.rows == 1)
            whole = [*(prompt or fed[:prompt_length]), *response]
            length = max(len(whole) - 1, prompt_length)
            if len(fed) < length or not _same(fed[:length], whole[:length]):
                return None
            finished.append(Finished(group, row, known_ids(fed[:prompt_length]), response, length))
        return finished

    def _split(self, group: SequenceGroup, row: int, sequence: list[int]) -> tuple[list[int], list[int]]:
        """A returned sequence as its unpadded prompt and what was generated after it."""
        width = group.prompt_lengths[row] if self._encoder_decoder else self._prompt_width
        slots = group.slots[row][:width]
        prompt = [token for token, real in zip(sequence, slots, strict=False) if real]
        return prompt, sequence[width:]

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


def _settings(model: nn.Module, given: dict[str, Any]) -> Callable[[str], Any]:
    """Look a generation setting up where `generate` does: its arguments, then the configuration."""
    config = given.get("generation_config") or getattr(model, "generation_config", None)
    defaults = getattr(model, "generation_config", None)

    def setting(name: str) -> Any:
        for source in (given.get(name), getattr(config, name, None), getattr(defaults, name, None)):
            if source is not None:
                return source
        return None

    return setting


def _same(fed: list[int], expected: list[int]) -> bool:
    return all(one in (other, UNKNOWN) for one, other in zip(fed, expected, strict=True))


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple | set) else [value]
