"""What a call of `generate` asked for and returned: where prompts end, and where each row ends.

The sequences that `generate` returns decide what belongs to the answer: a group of rows is theirs if it was fed
exactly their tokens. Everything else that ran meanwhile (rejected drafts, an unconditional branch) is not.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from actframe.capture.rows import UNKNOWN, Row, known_ids
from actframe.capture.sequence import SequenceGroup
from actframe.errors import CaptureError

__all__ = ["Answer", "Generation"]


@dataclass(frozen=True)
class Answer:
    """One returned sequence: the tokens of its prompt and response, unpadded, and how many have activations."""

    input_ids: list[int]
    output_ids: list[int]
    length: int


class Generation:
    """One call of `generate`, from its arguments.

    Attributes:
        groups: the sequences that were computed meanwhile.
        prompt_width: how many slots of the cache are prompt; None where the first call of a sequence tells.
        thread: where it runs.

    Raises:
        CaptureError: it asks for what is not recorded, said before anything runs.
    """

    def __init__(self, model: nn.Module, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        given = _arguments(generate, args, kwargs)
        self._settings = _settings(model, given)
        beams = self._settings("num_beams") or 1
        if beams > 1:
            raise CaptureError(
                f"generate(num_beams={beams}) reorders rows at every step, which is not recorded yet; "
                "use greedy search or sampling, or run without a recorder"
            )
        self.groups: list[SequenceGroup] = []
        self.thread = threading.get_ident()
        self._encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        ids = given.get("inputs") if given.get("inputs") is not None else given.get("input_ids")
        embeds = given.get("inputs_embeds")
        self._returned_width = ids.shape[1] if isinstance(ids, Tensor) and ids.ndim == 2 else 0
        self._fed_embeddings = isinstance(embeds, Tensor)
        fed_width = embeds.shape[1] if isinstance(embeds, Tensor) else self._returned_width
        self.prompt_width = None if self._encoder_decoder or not fed_width else fed_width
        self._may_stop_early = bool(given.get("stopping_criteria") or self._settings("stop_strings"))

    def finish(self, result: Any) -> tuple[SequenceGroup, list[Answer]]:
        """Find the rows that computed the returned sequences: their group, and the answer of each row.

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
        matches = [(group, found) for group in self.groups if (found := self._match(group, sequences)) is not None]
        if len(matches) != 1:
            fault = "no recorded rows were" if not matches else f"{len(matches)} groups of rows were each"
            raise CaptureError(
                f"{fault} fed the tokens that generate() returned, so the answer's activations cannot be told apart; "
                "this way of generating is not recorded"
            )
        return matches[0]

    def _match(self, group: SequenceGroup, sequences: list[list[int]]) -> list[Answer] | None:
        if len(group.rows) != len(sequences):
            return None
        answers = []
        for row, sequence in zip(group.rows, sequences, strict=True):
            answer = self._match_row(group, row, sequence)
            if answer is None:
                return None
            answers.append(answer)
        return answers

    def _match_row(self, group: SequenceGroup, row: Row, sequence: list[int]) -> Answer | None:
        """The answer in one returned sequence, if this row was fed it. The last token was never fed back."""
        width = group.prompt_width if self._encoder_decoder else self._returned_width
        response = self._cut(sequence[width:], alone=len(group.rows) == 1)
        prompt_length = group.prompt_length(row)
        prompt = [token for token, is_real in zip(sequence, row.slots[:width], strict=False) if is_real]
        if self._fed_embeddings:
            prompt = row.tokens[:prompt_length]
        whole = [*prompt, *response]
        length = max(len(whole) - 1, prompt_length)
        if len(row.tokens) < length or not _same(row.tokens[:length], whole[:length]):
            return None
        return Answer(known_ids(row.tokens[:prompt_length]), response, length)

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


def _same(fed: list[int], expected: list[int]) -> bool:
    return all(one in (other, UNKNOWN) for one, other in zip(fed, expected, strict=True))


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple | set) else [value]
