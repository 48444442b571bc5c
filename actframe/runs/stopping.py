"""Texts that end a response, each row of a batch with its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from actframe.runs.decoding import Decoding

__all__ = ["StopTexts", "cut_at"]

BYTES = 4
"""That a character has at most, and a token may be one byte."""


class StopTexts(StoppingCriteria):
    """Ends each row whose response has one of its own texts.

    Unlike the `stop_strings` of `generate`, which are those of every row, and which a prompt may begin.

    Args:
        tokenizer: of the model.
        texts: those of each row.
        start: how many tokens of each row are not response.
        decoding: knows which rows are computed.

    Attributes:
        ends: how many tokens each response has, the stop included; None for rows that were not ended by one.
    """

    eos_token_id = None
    """`generate` pads rows that are ended only where a criterion has such an attribute."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[str]], start: int, decoding: Decoding
    ) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        self._start = start
        self._decoding = decoding
        self._windows = [BYTES * (max(map(len, own), default=0) + 1) for own in texts]
        self.ends: list[int | None] = [None] * len(texts)

    def __call__(self, input_ids: LongTensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows `(row)` are ended."""
        length = input_ids.shape[1]
        rows = self._decoding.rows
        for place, row in enumerate(rows):
            own = self._texts[row]
            if own and self.ends[row] is None:
                window = input_ids[place, max(self._start, length - self._windows[row]) :]
                if cut_at(str(self._tokenizer.decode(window, skip_special_tokens=True)), own) is not None:
                    self.ends[row] = length - self._start
        return torch.tensor([self.ends[row] is not None for row in rows], device=input_ids.device)


def cut_at(text: str, stops: Sequence[str]) -> str | None:
    r"""What stands before the first of some texts; None where there is none of them.

    >>> cut_at("42\n\nQuestion: 7", ["Question:", "\n\n"])
    '42'
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None
