"""Choices -> log-likelihoods, in batches: what the choices of a question share is computed once.

First the prompts of a batch run in one forward pass, which is what gets recorded. Then the first choices of all its
questions go on from the KV cache of that, then the second ones, and so forth. Where a continuation has one token, the
prompt's last logits say all there is to say. Models whose cache cannot be continued from one state several times
(recurrent ones), or that take no positions, and encoder-decoders, compute such choices from their beginning.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from actframe.benchmarks.base import Likelihood
from actframe.capture.wrappers import wrapped
from actframe.errors import ModelError
from actframe.runs.choices import EncodedChoice, Ranking
from actframe.runs.models import LoadedModel

__all__ = ["rank_batch"]


def rank_batch(
    loaded: LoadedModel, rankings: Sequence[Ranking], recording: AbstractContextManager[Any] | None = None
) -> list[list[Likelihood]]:
    """How likely the choices of some questions are, computed together.

    Args:
        loaded: the model and its tokenizer.
        rankings: of each question.
        recording: what the pass over the prompts runs in, and no other: a recorder, say. Questions whose choices share
            no beginning have no row in that pass; where none has one, it does not run.

    Returns:
        For each question one value for each of its choices. Probabilities are computed in float32.

    Raises:
        ModelError: an encoder-decoder does not say what its decoder begins with.
    """
    model = _Model.of(loaded)
    found: list[list[Likelihood]] = [[] for _ in rankings]
    with torch.no_grad():
        prompts = _run_prompts(model, [ranking.prompt_ids for ranking in rankings], recording or nullcontext())
        for number in range(max(len(ranking.choices) for ranking in rankings)):
            asked = {row: each.choices[number] for row, each in enumerate(rankings) if number < len(each.choices)}
            for row, likelihood in _run_choices(model, prompts, asked).items():
                found[row].append(likelihood)
    return found


@dataclass(frozen=True)
class _Model:
    """A model, and what its forward takes.

    Attributes:
        takes_positions: rows can be padded on the left, and continue a cache from there.
        chooses_logits: it computes no more logits than it is told to.
        start: the token that the decoder of an encoder-decoder begins with; else None.
    """

    model: Any
    device: torch.device
    takes_positions: bool
    chooses_logits: bool
    start: int | None = None

    @classmethod
    def of(cls, loaded: LoadedModel) -> _Model:
        takes = inspect.signature(wrapped(loaded.model)[1].forward).parameters
        chooses = "logits_to_keep" in takes
        if not loaded.is_encoder_decoder:
            return cls(loaded.model, loaded.device, "position_ids" in takes, chooses)
        configs = getattr(loaded.model, "generation_config", None), loaded.model.config
        starts = [getattr(config, "decoder_start_token_id", None) for config in configs]
        start = next((token for token in starts if token is not None), None)
        if start is None:
            raise ModelError(f"model {loaded.name!r} does not say which token its decoder begins with")
        return cls(loaded.model, loaded.device, False, chooses, int(start))

    def run(self, ids: Tensor, mask: Tensor, columns: range, **more: Any) -> tuple[Tensor, Any]:
        """A forward pass: its logits at some columns, `(batch, column, vocabulary)`, and its cache."""
        width = more.get("decoder_input_ids", ids).shape[1]
        chosen = self.chooses_logits and len(columns) < width
        if chosen:
            is_end = columns.stop == width
            more["logits_to_keep"] = len(columns) if is_end else torch.tensor(columns, device=self.device)
        given = {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in more.items()}
        output = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device), **given)
        logits = output.logits if chosen else output.logits[:, columns.start : columns.stop]
        return logits, getattr(output, "past_key_values", None)


@dataclass(frozen=True)
class _Prompts:
    """What the pass over the prompts leaves.

    Attributes:
        ids: the prompt of each question.
        places: the row of each question in the pass; one that has no prompt has none.
        mask: which columns are tokens, `(row, pos)`.
        logits: of the token after each prompt, `(row, vocabulary)`.
        cache: what the choices go on from; None where they cannot.
        in_decoder: choices begin in a decoder of its own, and the prompt was the encoder's.
    """

    ids: list[list[int]]
    places: dict[int, int]
    mask: Tensor
    logits: Tensor
    cache: DynamicCache | None
    in_decoder: bool

    def rest(self, row: int, choice: EncodedChoice) -> list[int] | None:
        """What a choice adds to the prompt; None where it does not begin with it."""
        prompt = self.ids[row]
        if self.in_decoder:
            return choice.continuation if prompt == choice.context else None
        return choice.ids[len(prompt) :] if prompt and choice.ids[: len(prompt)] == prompt else None


def _run_prompts(model: _Model, ids: list[list[int]], recording: AbstractContextManager[Any]) -> _Prompts:
    """The prompts in one pass: padded on the left where the model takes positions, else on the right."""
    asked = [row for row, prompt in enumerate(ids) if prompt]
    if not asked:
        return _Prompts(ids, {}, torch.empty(0, 0), torch.empty(0, 0), None, model.start is not None)
    padded, mask = _pad([ids[row] for row in asked], left=model.takes_positions)
    more: dict[str, Any] = {"use_cache": model.takes_positions}
    last = mask.sum(1) - 1
    if model.start is not None:
        more["decoder_input_ids"] = torch.full((len(asked), 1), model.start)
        last = torch.zeros_like(last)
    elif model.takes_positions:
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        last = torch.full_like(last, mask.shape[1] - 1)
    columns = range(int(last.min()), int(last.max()) + 1)
    with recording:
        logits, cache = model.run(padded, mask, columns, **more)
    each = torch.arange(len(asked), device=logits.device)
    logits = logits[each, (last - columns.start).to(logits.device)]
    places = {row: place for place, row in enumerate(asked)}
    return _Prompts(ids, places, mask, logits, cache if _can_go_on(cache) else None, model.start is not None)


def _run_choices(model: _Model, prompts: _Prompts, asked: dict[int, EncodedChoice]) -> dict[int, Likelihood]:
    """One choice of each of some questions."""
    rests = {row: prompts.rest(row, choice) for row, choice in asked.items()}
    by_prompt = {row: rest for row, rest in rests.items() if rest and (len(rest) == 1 or prompts.cache is not None)}
    logits = _go_on(model, prompts, {row: rest for row, rest in by_prompt.items() if len(rest) > 1})
    logits |= _run_whole(model, {row: choice for row, choice in asked.items() if row not in by_prompt})
    found = {}
    for row, choice in asked.items():
        pieces = [logits[row]] if row in logits else []
        if row in by_prompt:
            pieces.insert(0, prompts.logits[prompts.places[row]][None])
        found[row] = _likelihood(torch.cat(pieces)[-len(choice.continuation) :], choice.continuation)
    return found


def _go_on(model: _Model, prompts: _Prompts, rests: dict[int, list[int]]) -> dict[int, Tensor]:
    """Continue the prompts of some questions; gives the logits after each token but the last."""
    if not rests:
        return {}
    fed = {row: rest[:-1] for row, rest in rests.items()}
    ids, mask = _pad(list(fed.values()), left=False)
    rows = torch.tensor([prompts.places[row] for row in fed])
    before = prompts.mask[rows]
    # What pads a row has the position of its last token: more may be more than the model has.
    positions = before.sum(1, keepdim=True) + torch.minimum(mask.cumsum(1), mask.sum(1, keepdim=True)) - 1
    assert prompts.cache is not None
    cache = _branch(prompts.cache)
    if len(rows) < len(prompts.mask):
        cache.batch_select_indices(rows.to(model.device))
    logits, _ = model.run(
        ids,
        torch.cat([before, mask], dim=1),
        range(ids.shape[1]),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return {row: logits[place, : len(tokens)] for place, (row, tokens) in enumerate(fed.items())}


def _run_whole(model: _Model, choices: dict[int, EncodedChoice]) -> dict[int, Tensor]:
    """Compute some choices from their beginning; gives the logits of each token of the continuation."""
    if not choices:
        return {}
    ends = {row: len(choice.ids) - 1 for row, choice in choices.items()}
    more: dict[str, Any] = {}
    if model.start is not None:
        ids, mask = _pad([choice.context for choice in choices.values()], left=False)
        fed = [[model.start, *choice.continuation[:-1]] for choice in choices.values()]
        more["decoder_input_ids"], _ = _pad(fed, left=False)
        ends = {row: len(choice.continuation) for row, choice in choices.items()}
    else:
        # What stands to the right of a token changes nothing of it.
        ids, mask = _pad([choice.ids[:-1] for choice in choices.values()], left=False)
    first = min(ends[row] - len(choice.continuation) for row, choice in choices.items())
    logits, _ = model.run(ids, mask, range(first, max(ends.values())), use_cache=False, **more)
    return {
        row: logits[place, ends[row] - len(choice.continuation) - first : ends[row] - first]
        for place, (row, choice) in enumerate(choices.items())
    }


def _likelihood(logits: Tensor, continuation: list[int]) -> Likelihood:
    """What logits `(token, vocabulary)` say of the tokens of a continuation."""
    logprobs = logits.float().log_softmax(-1)
    tokens = torch.tensor(continuation, device=logits.device)
    each = logprobs.gather(1, tokens[:, None])
    return Likelihood(float(each.sum()), bool((logprobs.argmax(-1) == tokens).all()), len(continuation))


def _can_go_on(cache: Any) -> bool:
    """Whether a cache can be continued several times from where it is.

    Layers of keys and values make new tensors to hold more, and leave the old ones as they are, so that a shallow copy
    of them goes its own way. Recurrent states are overwritten, and static caches are filled in place.
    """
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


def _branch(cache: Cache) -> Any:
    """A cache that goes on from where this one is, and leaves it there."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _pad(rows: list[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask `(row, pos)`; padding is token 0, which the mask hides."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, span] = torch.tensor(row)
        mask[number, span] = 1
    return ids, mask
