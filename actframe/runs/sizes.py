"""How large the answers of a run become, known from the record of one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actframe.capture.selection import Selection
from actframe.records.record import ActivationRecord

__all__ = ["AnswerSizes"]

TOKEN_LINE, POSITION_LINE = 23, 7
"""Bytes that a token takes in a line of JSON at most, or nearly: its text and its id; and its position."""

STORED = 250
"""Bytes that a ledger line has beside what the record says."""

SHARD, SHARD_SITE = 16 << 10, 300
"""Bytes that a shard may have beside its records, and for each of its sites."""


@dataclass(frozen=True)
class AnswerSizes:
    """Bytes of an answer, by the length of its prompt and of its response in tokens.

    Attributes:
        row_bytes: of one position of all sites that have every position.
        pattern_bytes: of one position and one key of all attention patterns.
        late_bytes: of one position of the sites that are computed for the response alone, logits for example.
        encoder_bytes: of one position of the sites of an encoder.
        line_bytes: what a line of JSON says beside texts, ids and positions.
        token_line, position_line: what it says of each token and each position, on average.
        shard_bytes: of one more file, beside the records in it.
    """

    selection: Selection
    is_encoder_decoder: bool
    row_bytes: int
    pattern_bytes: int
    late_bytes: int
    encoder_bytes: int
    line_bytes: int
    token_line: float
    position_line: float
    shard_bytes: int

    @classmethod
    def of(cls, record: ActivationRecord, selection: Selection, is_encoder_decoder: bool) -> AnswerSizes:
        """Of answers like this one, whatever their length."""
        kinds = {"row_bytes": 0, "pattern_bytes": 0, "late_bytes": 0, "encoder_bytes": 0}
        for site, tensor in record.activations.items():
            kind = "late_bytes" if site in record.site_positions else "row_bytes"
            if is_encoder_decoder and site.startswith("encoder."):
                kind = "encoder_bytes"
            elif site.rpartition(".")[2] == "attn_probs":
                kind = "pattern_bytes"
            own = tensor.shape[:1] if kind == "pattern_bytes" else tensor.shape[1:]
            kinds[kind] += math.prod(own) * tensor.element_size()
        size = {key: len(json.dumps(value, ensure_ascii=False).encode()) for key, value in _said(record)}
        tokens = len(record.input_ids) + len(record.output_ids)
        return cls(
            selection,
            is_encoder_decoder,
            **kinds,
            line_bytes=sum(size[key] + len(key) + 4 for key in size if key not in _GROWING),
            token_line=sum(size[key] for key in _OF_TOKENS) / tokens,
            position_line=size["positions"] / max(1, len(record.positions)) if kinds["row_bytes"] else 0.0,
            shard_bytes=SHARD + SHARD_SITE * len(record.activations),
        )

    def tensor_bytes(self, prompt_tokens: int, output_tokens: int) -> int:
        """Of the activations of one answer, in memory."""
        prompt = 1 if self.is_encoder_decoder else prompt_tokens
        # The last token was never fed back, so it has no activations.
        length = prompt + max(0, output_tokens - 1)
        chosen = self.selection.choose(length, prompt)
        late = [position for position in chosen if position >= prompt - 1]
        encoded = self.selection.choose(prompt_tokens, prompt_tokens) if self.encoder_bytes else []
        rows = self._rows
        return (
            rows(chosen) * (self.row_bytes + self.pattern_bytes * length)
            + rows(late) * self.late_bytes
            + rows(encoded) * self.encoder_bytes
        )

    def kept_bytes(self, prompt_tokens: int, output_tokens: int) -> int:
        """Of what a recorder keeps of one answer while it grows: also what may turn out not to be selected."""
        prompt = 1 if self.is_encoder_decoder else prompt_tokens
        length = prompt + max(0, output_tokens - 1)
        kept = len(self.selection.may_keep(0, length, prompt))
        encoded = len(self.selection.may_keep(0, prompt_tokens, prompt_tokens))
        return kept * (self.row_bytes + self.late_bytes + self.pattern_bytes * length) + encoded * self.encoder_bytes

    def line(self, prompt_tokens: int, output_tokens: int) -> int:
        """Of what is said about one answer, as a line of JSON, as it is to be expected."""
        return self._line(prompt_tokens, output_tokens, self.token_line, self.position_line)

    def stored_bytes(self, prompt_tokens: int, output_tokens: int, ratio: float = 1.0) -> int:
        """Of one answer on disk: its activations, smaller by `ratio`, and its line, which is there twice."""
        tensors = self.tensor_bytes(prompt_tokens, output_tokens)
        return math.ceil(tensors / ratio) + 2 * self.line(prompt_tokens, output_tokens) + STORED

    def most_bytes(self, prompt_tokens: int, output_tokens: int, ratio: float = 1.0) -> int:
        """The same, of an answer in long words."""
        line = self._line(prompt_tokens, output_tokens, TOKEN_LINE, POSITION_LINE)
        return math.ceil(self.tensor_bytes(prompt_tokens, output_tokens) / ratio) + 2 * line + STORED

    def _line(self, prompt_tokens: int, output_tokens: int, token: float, position: float) -> int:
        tokens = prompt_tokens + output_tokens
        positions = len(self.selection.choose(tokens, prompt_tokens)) if self.row_bytes else 0
        return math.ceil(self.line_bytes + tokens * token + positions * position)

    def _rows(self, positions: list[int]) -> int:
        return min(1, len(positions)) if self.selection.reduce else len(positions)


_OF_TOKENS = ("prompt", "response", "input_ids", "output_ids")
_GROWING = (*_OF_TOKENS, "positions", "site_positions")


def _said(record: ActivationRecord) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in record.items() if key != "activations")
