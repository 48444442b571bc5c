"""Decoding that computes what rows begin with in common once, and lets rows leave when their responses have ended.

`generate` computes every row of a batch from its first token until the last row has ended. Prompts of a benchmark begin
alike, with a system message, an instruction, solved examples; and their responses differ in length by a factor of ten.
So most of what it computes is the same again, or of no account.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["Decoding", "can_go_on", "shared_beginning"]

FULL = 0.75
"""Rows leave when fewer than this share of them goes on: each time, the keys and values of those are copied."""

LEAST, SAVED = 16, 1 / 8
"""What rows have in common is computed once where it has so many tokens, and so many of all are saved: it takes a
forward pass of its own."""

OF_GENERATE = (
    "generate",
    "prepare_inputs_for_generation",
    "_prefill",
    "_prepare_position_ids_for_generation",
    "_sample",
    "_update_model_kwargs_for_generation",
)
"""What a model class overrides that feeds its forward something of its own, or keeps something for each row."""


@dataclass
class Decoding:
    """A decoding method for `generate(custom_generate=...)`: what is likeliest, of rows that go on.

    Tokens are those of `generate` itself, whose logits processors and stopping criteria it applies.

    Args:
        count: how many rows the batch has.
        shared: how many tokens all rows begin with, without padding before or among them; they are computed once.

    Attributes:
        rows: the numbers of those that are computed. Processors and criteria that treat each row in a way of its own
            look here which rows they are given.
    """

    count: int
    shared: int = 0
    rows: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = list(range(self.count))

    @staticmethod
    def suits(model: Any, config: GenerationConfig) -> bool:
        """Whether a model is fed with ids, a mask and positions alone, as this decodes it.

        Not so are encoder-decoders, models with images, recurrent ones, and those that run on several machines, which
        must do the same number of steps.
        """
        if not isinstance(model, PreTrainedModel) or model.config.is_encoder_decoder:
            return False
        own = any(getattr(type(model), name, None) is not getattr(GenerationMixin, name, None) for name in OF_GENERATE)
        taken = inspect.signature(model.forward).parameters
        takes = all(name in taken for name in ("attention_mask", "position_ids", "past_key_values"))
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        # A watermark keeps something for each row. None in a configuration leaves what the model's own says.
        marks = config.watermarking_config or getattr(model.generation_config, "watermarking_config", None)
        return takes and not (own or distributed or marks) and config.cache_implementation is None

    def __call__(
        self,
        model: Any,
        input_ids: LongTensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **given: Any,
    ) -> Tensor:
        """The sequences `(batch, length)`, each with its prompt; what follows on its end is padding."""
        pad = int(generation_config.pad_token_id)
        ids: Tensor = input_ids
        ended: dict[int, Tensor] = {}
        live = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        if self.shared and can_go_on(given.get("past_key_values")):
            _compute_once(model, ids[:1, : self.shared], len(ids), given)
        while True:
            logits = _step(model, ids, given)
            scores = logits_processor(ids, logits)
            ids = torch.cat([ids, scores.argmax(-1).where(live, pad)[:, None]], dim=1)
            live = live & ~stopping_criteria(ids, None)
            stay = live.nonzero().flatten()
            if not len(stay):
                break
            if len(stay) < FULL * len(ids) and can_go_on(given["past_key_values"]):
                for place in (~live).nonzero().flatten().tolist():
                    ended[self.rows[place]] = ids[place]
                self.rows = [self.rows[place] for place in stay.tolist()]
                ids, live = ids[stay], live[stay]
                _select(given, stay)
        ended.update(zip(self.rows, ids, strict=True))
        sequences = torch.full((self.count, ids.shape[1]), pad, dtype=ids.dtype, device=ids.device)
        for row, tokens in ended.items():
            sequences[row, : len(tokens)] = tokens
        return sequences


def _compute_once(model: Any, beginning: Tensor, count: int, given: dict[str, Any]) -> None:
    """Fill the cache with what so many rows begin with."""
    own = {"input_ids": beginning, "position_ids": given["position_ids"][:1, : beginning.shape[1]]}
    model(**{**given, **own, "attention_mask": None}, return_dict=True)
    given["past_key_values"].batch_repeat_interleave(count)


def _step(model: Any, ids: Tensor, given: dict[str, Any]) -> Tensor:
    """The logits `(row, vocabulary)` after the last token of each row, in float32; `given` becomes that of the next."""
    cache = given.get("past_key_values")
    new = ids.shape[1] - (cache.get_seq_length() if cache is not None else 0)
    positions = given["position_ids"]
    output = model(
        **{**given, "input_ids": ids[:, -new:].contiguous(), "position_ids": positions[:, -new:].contiguous()},
        return_dict=True,
    )
    given["past_key_values"] = getattr(output, "past_key_values", None)
    given["position_ids"] = torch.cat([positions, positions[:, -1:] + 1], dim=1)
    if (mask := given.get("attention_mask")) is not None:
        given["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    # A copy, so that the logits of a whole prompt can be forgotten.
    logits: Tensor = output.logits[:, -1].to(copy=True, dtype=torch.float32, device=ids.device)
    return logits


def _select(given: dict[str, Any], rows: Tensor) -> None:
    """Go on with some of the rows."""
    # On the CPU they index every layer's keys, on whichever device these are.
    given["past_key_values"].batch_select_indices(rows.cpu())
    for name in ("attention_mask", "position_ids"):
        if given.get(name) is not None:
            given[name] = given[name][rows]


def can_go_on(cache: Any) -> bool:
    """Whether the rows of a cache can be selected, and go on several times from where they are.

    Layers of keys and values make new tensors to hold more, and leave the old ones as they are, so that a shallow copy
    of them goes its own way. Recurrent states are overwritten, and static caches are filled in place.
    """
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def shared_beginning(model: Any, prompts: Sequence[Sequence[int]]) -> int:
    """With how many tokens all prompts of a batch begin that are worth to be computed once; 0 where they may not be.

    What follows on them has different lengths, so padding stands between them and the rest. That is right only where
    attention knows places by their rotary embeddings alone: counted in columns, as by a sliding window, or by a
    recurrent state, the rest would be further away.

    Args:
        model: one that `Decoding` suits.
        prompts: their token ids. Where two are the same, their recorded rows could not be told apart.
    """
    if len(set(map(tuple, prompts))) < max(2, len(prompts)):
        return 0
    columns = enumerate(zip(*(prompt[:-1] for prompt in prompts), strict=False))
    shared = next((place for place, tokens in columns if len(set(tokens)) > 1), min(map(len, prompts)) - 1)
    saved = shared * (len(prompts) - 1) / sum(map(len, prompts))
    return shared if shared >= LEAST and saved >= SAVED and _counts_positions(model) else 0


def _counts_positions(model: Any) -> bool:
    """Whether attention knows where tokens are by rotary embeddings alone, which follow their position ids."""
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    rope = repr(getattr(config, "rope_parameters", None))
    return (
        bool(layers)
        and all(type(layer) is DynamicLayer for layer in layers)
        and not getattr(model, "_is_stateful", False)
        # These rotate by how long the longest sequence is.
        and not any(kind in rope for kind in ("dynamic", "longrope"))
        and any("position_embeddings" in inspect.signature(each.forward).parameters for each in _kinds(model))
    )


def _kinds(model: Any) -> set[Any]:
    return {type(module) for module in model.modules()}
