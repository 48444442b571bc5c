"""Choices -> log-likelihoods, in batches: what the choices of a question share is computed once.

First the prompts of a batch run in one forward pass, which is what gets recorded. Then the first choices of all its
questions go on from the KV cache of that, then the second ones, and so forth. Where a continuation has one token, the
prompt's last logits say all there is to say. Models whose cache cannot be continued from one state several times
(recurrent ones), or that take no positions, and encoder-decoders, compute such choices from their beginning.

Where choices are to be recorded as well, the same passes run inside the recording, each with a copy of the prompts'
cache, which the recorder knows for one; and a last pass over the last token of each choice, which nobody needs for its
likelihood, completes them. So they share the prompt's activations, and what is compared stays the same to the last bit.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from actframe.benchmarks.base import Likelihood
from actframe.capture.wrappers import wrapped
from actframe.errors import ModelError
from actframe.runs.choices import EncodedChoice, Ranking
from actframe.runs.decoding import can_go_on
from actframe.runs.models import LoadedModel

__all__ = ["rank_batch"]


def rank_batch(
    loaded: LoadedModel,
    rankings: Sequence[Ranking],
    recording: AbstractContextManager[Any] | None = None,
    *,
    records_choices: bool = False,
) -> list[list[Likelihood]]:
    """How likely the choices of some questions are, computed together.

    Args:
        loaded: the model and its tokenizer.
        rankings: of each question.
        recording: what the pass over the prompts runs in, and no other: a recorder, say. Questions whose choices share
            no beginning have no row in that pass; where none has one, it does not run.
        records_choices: let choices that go on from the prompts do so inside `recording`, with their last token. Those
            that do not - see above; and where there are sliding windows, which what pads shorter choices would fill -
            are not recorded here.

    Returns:
        For each question one value for each of its choices. Probabilities are computed in float32.

    Raises:
        ModelError: an encoder-decoder does not say what its decoder begins with.
    """
    model = _Model.of(loaded)
    rounds = [
        {row: each.choices[number] for row, each in enumerate(rankings) if number < len(each.choices)}
        for number in range(max(len(ranking.choices) for ranking in rankings))
    ]
    ids = [ranking.prompt_ids for ranking in rankings]
    with torch.no_grad():
        with recording if recording is not None and any(ids) else nullcontext():
            prompts = _run_prompts(model, ids)
            recorded = records_choices and prompts.can_be_copied
            found = [_follow_prompts(model, prompts, asked, whole=True) for asked in rounds if recorded]
        if not recorded:
            found = [_follow_prompts(model, prompts, asked) for asked in rounds]
        for known, asked in zip(found, rounds, strict=True):
            known.update(_run_whole(model, {row: choice for row, choice in asked.items() if row not in known}))
    return [[known[row] for known in found if row in known] for row in range(len(rankings))]


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

    @property
    def can_be_copied(self) -> bool:
        """Whether what goes on from a copy of the cache may have gaps where shorter rows are padded.

        Positions tell where a token is; windows that slide count what is in the cache.
        """
        return self.cache is not None and all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def rest(self, row: int, choice: EncodedChoice) -> list[int] | None:
        """What a choice adds to the prompt; None where it does not begin with it."""
        prompt = self.ids[row]
        if self.in_decoder:
            return choice.continuation if prompt == choice.context else None
        return choice.ids[len(prompt) :] if prompt and choice.ids[: len(prompt)] == prompt else None


def _run_prompts(model: _Model, ids: list[list[int]]) -> _Prompts:
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
    logits, cache = model.run(padded, mask, columns, **more)
    each = torch.arange(len(asked), device=logits.device)
    logits = logits[each, (last - columns.start).to(logits.device)]
    places = {row: place for place, row in enumerate(asked)}
    return _Prompts(ids, places, mask, logits, cache if can_go_on(cache) else None, model.start is not None)


def _follow_prompts(
    model: _Model, prompts: _Prompts, asked: dict[int, EncodedChoice], *, whole: bool = False
) -> dict[int, Likelihood]:
    """One choice of each of some questions, of those that go on from the prompts; `whole` computes their last token."""
    rests = {row: prompts.rest(row, choice) for row, choice in asked.items()}
    following = {row: rest for row, rest in rests.items() if rest and (len(rest) == 1 or prompts.cache is not None)}
    logits = _go_on(model, prompts, {row: rest for row, rest in following.items() if len(rest) > 1}, whole=whole)
    if whole:
        _go_on(model, prompts, {row: rest for row, rest in following.items() if len(rest) == 1}, whole=True)
    found = {}
    for row in following:
        pieces = [prompts.logits[prompts.places[row]][None], *([logits[row]] if row in logits else [])]
        continuation = asked[row].continuation
        found[row] = _likelihood(torch.cat(pieces)[-len(continuation) :], continuation)
    return found


def _go_on(model: _Model, prompts: _Prompts, rests: dict[int, list[int]], *, whole: bool) -> dict[int, Tensor]:
    """Continue the prompts of some questions; gives the logits after each token but the last."""
    if not rests:
        return {}
    branch = _Branch.of(model, prompts, list(rests), is_seen=whole)
    fed = [rest[:-1] for rest in rests.values()]
    found = {}
    if any(fed):
        logits = branch.feed(model, fed)
        found = {row: logits[place, : len(rest) - 1] for place, (row, rest) in enumerate(rests.items())}
    if whole:
        branch.feed(model, [rest[-1:] for rest in rests.values()])
    return found


@dataclass
class _Branch:
    """Some of the prompts, while they are continued.

    Attributes:
        cache: of these rows, their own.
        mask: which of its slots are tokens, `(row, slot)`.
    """

    cache: DynamicCache
    mask: Tensor

    @classmethod
    def of(cls, model: _Model, prompts: _Prompts, rows: list[int], *, is_seen: bool) -> _Branch:
        """A cache that goes on from where the prompts' is, and leaves it there.

        Whoever records (`is_seen`) knows a deep copy for what it is, and rows that are taken in the place of others.
        """
        places = torch.tensor([prompts.places[row] for row in rows])
        assert prompts.cache is not None
        if is_seen:
            cache = copy.deepcopy(prompts.cache)
            if len(rows) < len(prompts.mask):
                cache.reorder_cache(cast(torch.LongTensor, places.to(model.device)))
        else:
            cache = copy.copy(prompts.cache)
            cache.layers = [copy.copy(layer) for layer in prompts.cache.layers]
            if len(rows) < len(prompts.mask):
                # On the CPU they index every layer's keys, on whichever device these are.
                cache.batch_select_indices(places)
        return cls(cache, prompts.mask[places])

    def feed(self, model: _Model, rows: list[list[int]]) -> Tensor:
        """Compute more tokens of each row; gives the logits after each, `(row, column, vocabulary)`."""
        ids, mask = _pad(rows, left=False)
        # What pads a row has the position of its last token: more may be more than the model has.
        ahead = torch.minimum(mask.cumsum(1), mask.sum(1, keepdim=True)) - 1
        positions = self.mask.sum(1, keepdim=True) + ahead
        self.mask = torch.cat([self.mask, mask], dim=1)
        more = {"position_ids": positions, "past_key_values": self.cache, "use_cache": True}
        return model.run(ids, self.mask, range(ids.shape[1]), **more)[0]


def _run_whole(model: _Model, choices: dict[int, EncodedChoice]) -> dict[int, Likelihood]:
    """Compute some choices from their beginning."""
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
    spans = {row: (ends[row] - len(choice.continuation) - first, ends[row] - first) for row, choice in choices.items()}
    return {
        row: _likelihood(logits[place, slice(*spans[row])], choice.continuation)
        for place, (row, choice) in enumerate(choices.items())
    }


def _likelihood(logits: Tensor, continuation: list[int]) -> Likelihood:
    """What logits `(token, vocabulary)` say of the tokens of a continuation."""
    logprobs = logits.float().log_softmax(-1)
    tokens = torch.tensor(continuation, device=logits.device)
    each = logprobs.gather(1, tokens[:, None])
    return Likelihood(float(each.sum()), bool((logprobs.argmax(-1) == tokens).all()), len(continuation))


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
