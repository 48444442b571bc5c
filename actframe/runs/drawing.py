"""Drawing tokens so that an answer depends on its own seed alone: not on its batch, its row, or the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import cast

import numpy
import torch
from torch import LongTensor, Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from actframe.runs.decoding import Decoding

__all__ = ["Drawing", "answer_seed"]


def answer_seed(seed: int, question_id: str, trial: int) -> int:
    """What one answer of a run draws with.

    >>> answer_seed(0, "general/1", 0) == answer_seed(0, "general/1", 1)
    False
    """
    digest = hashlib.sha256(json.dumps([seed, question_id, trial]).encode()).digest()
    return int.from_bytes(digest[:16], "big")


class Drawing(LogitsProcessor):
    """Turns logits into scores whose largest is a token that was drawn, so that `generate` draws by taking it.

    The Gumbel-max trick (Gumbel, 1954; Maddison et al., "A* Sampling", 2014, https://arxiv.org/abs/1411.0030): the
    largest of `log p + g`, with noise `g` of the Gumbel distribution, is a token with probability `p`. As a Gumbel
    variable is `-log e` for an `e` of the exponential distribution, that is the largest of `p / e`, which saves two
    logarithms. The noise is drawn on the CPU, by each row from a generator of its own: `generate` draws all rows of a
    batch from one, where each token would depend on every row before it.

    Args:
        temperature: above 0.
        top_p: 1 for all tokens.
        seeds: one for each row of the batch.
        decoding: knows which of these rows are computed.
    """

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int], decoding: Decoding) -> None:
        self._warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(temperature))]
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        self._generators = [numpy.random.Generator(numpy.random.PCG64(seed)) for seed in seeds]
        self._decoding = decoding

    def __call__(self, input_ids: LongTensor, scores: Tensor) -> Tensor:
        """Scores `(batch, vocabulary)` in which the largest of each row is the drawn token."""
        for warp in self._warpers:
            scores = warp(input_ids, cast(torch.FloatTensor, scores))
        noise = torch.empty(scores.shape, dtype=torch.float32)
        for place, row in enumerate(self._decoding.rows):
            # In double precision: what is likeliest to be drawn is what gets the smallest numbers.
            noise[place] = torch.from_numpy(self._generators[row].standard_exponential(scores.shape[1]))
        return scores.softmax(dim=-1).div_(noise.to(scores.device))
