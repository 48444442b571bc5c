"""Prompts -> responses, in batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from actframe.benchmarks.base import Likelihood
from actframe.benchmarks.prompting import Message
from actframe.errors import SettingsError
from actframe.runs.batches import plan_batches
from actframe.runs.decoding import Decoding, shared_beginning
from actframe.runs.drawing import Drawing, answer_seed
from actframe.runs.models import LoadedModel
from actframe.runs.prompts import begun_response, check_lengths, encode_prompts
from actframe.runs.quiet import without_notices
from actframe.runs.stopping import StopTexts, cut_at

__all__ = [
    "GenerationSettings",
    "Request",
    "Response",
    "generate_batch",
    "generate_responses",
    "prepare_prompts",
    "run_generate",
]

PLAIN = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "guidance_scale": 1.0,
    "return_dict_in_generate": False,
}
"""What switches each option off. Checkpoints come with penalties and sampling of their own; a penalty on what was said
before would also see the padding, and make an answer depend on its batch."""


@dataclass(frozen=True)
class GenerationSettings:
    """How responses are generated. These settings say it all: what the checkpoint suggests beside them is not applied.

    Attributes:
        max_new_tokens: where a response is cut off.
        temperature: 0 takes the likeliest token each time; above it, tokens are drawn.
        top_p: draw only from the likeliest tokens that together have this probability.
        seed: what is drawn depends on. Each answer draws with a seed of its own, made of this one and of which answer
            it is: so it stays what it is in another batch, another order, or a run that goes on. Torch's own random
            state is not used.
        batch_size: how many prompts are computed together at most.
        batch_tokens: how many tokens are, at most: rows times the longest prompt and response that there may be. A
            prompt that is longer by itself is computed alone.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 64
    batch_tokens: int = 16384

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "batch_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingsError(f"{name} is {value!r}; it must be a whole number, at least 1")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise SettingsError(f"temperature is {self.temperature}; use 0 for the likeliest token, or more to draw")
        if not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p is {self.top_p}; it is a probability above 0, up to 1")
        if self.top_p < 1 and self.temperature == 0:
            raise SettingsError(f"top_p={self.top_p} has no effect at temperature 0, where nothing is drawn")
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"seed is {self.seed}; it must be from 0 to 2**63 - 1")


Observe = Callable[[list[int], Tensor], None]
"""Is given the logits of a step, `(row, vocabulary)`, and the number in its batch of each row that they are of."""


@dataclass(frozen=True)
class Request:
    """What `generate_batch` needs to know of one response.

    Attributes:
        input_ids: the tokens of the prompt, from `prepare_prompts`.
        seed: what it draws with.
        stops: texts that end it, and are not part of it.
    """

    input_ids: list[int]
    seed: int = 0
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Response:
    """What the model answered to one prompt.

    Attributes:
        text: the response without special tokens, up to the text that stopped it.
        output_ids: its token ids, with the end-of-sequence token that closed it, or the text that stopped it.
        prompt_tokens: the length of the prompt in tokens, chat template included.
        truncated: whether the token limit ended it, not the model.
        begun: what the prompt itself began of the response: an open `<think>`, or nothing.
        likelihoods: of each choice, where choices were ranked and nothing was generated.
    """

    text: str
    output_ids: list[int]
    prompt_tokens: int
    truncated: bool
    begun: str = ""
    likelihoods: tuple[Likelihood, ...] = ()


def generate_responses(
    loaded: LoadedModel,
    prompts: Sequence[str],
    settings: GenerationSettings | None = None,
    chat: bool | None = None,
) -> list[Response]:
    """One response for each prompt, in the order of the prompts; `chat` as in `encode_prompts`.

    Where tokens are drawn, the n-th prompt draws what it draws in every call with the same seed.

    Raises:
        PromptError: a prompt is empty or too long, said before the model runs.
        ModelError: the model has no tokenizer, does not generate, or has no chat template where one was demanded.
    """
    settings = settings or GenerationSettings()
    encoded = prepare_prompts(loaded, prompts, settings, chat)
    requests = [Request(ids, answer_seed(settings.seed, "", index)) for index, ids in enumerate(encoded)]
    responses: dict[int, Response] = {}
    for rows in plan_batches([len(ids) for ids in encoded], settings):
        responses.update(zip(rows, generate_batch(loaded, [requests[row] for row in rows], settings), strict=True))
    return [responses[index] for index in range(len(encoded))]


def prepare_prompts(
    loaded: LoadedModel,
    prompts: Sequence[str | Sequence[Message]],
    settings: GenerationSettings,
    chat: bool | None = None,
) -> list[list[int]]:
    """The token ids of each prompt, after everything is checked that can be before the model runs.

    Raises:
        PromptError, ModelError: as `generate_responses`.
    """
    loaded.require_generation()
    encoded = encode_prompts(loaded, prompts, chat)
    check_lengths(loaded, encoded, settings.max_new_tokens)
    return encoded


def generate_batch(loaded: LoadedModel, requests: Sequence[Request], settings: GenerationSettings) -> list[Response]:
    """One call of the model's `generate`, and the response to each request, in their order.

    Args:
        loaded: the model and its tokenizer.
        requests: of this batch.
        settings: how to generate; `seed` and the sizes of batches are the caller's to apply.
    """
    tokenizer = loaded.require_tokenizer()
    sequences, start, stopped = run_generate(loaded, requests, settings)
    ends = _ends(loaded)
    responses = []
    for request, row, stop in zip(requests, sequences[:, start:].tolist(), stopped, strict=True):
        end = next((position + 1 for position, token in enumerate(row[:stop]) if token in ends), stop)
        output = row[:end]
        text = str(tokenizer.decode(output, skip_special_tokens=True))
        cut = cut_at(text, request.stops)
        begun = begun_response(tokenizer, request.input_ids)
        responses.append(
            Response(text if cut is None else cut, output, len(request.input_ids), end is None and cut is None, begun)
        )
    return responses


def run_generate(
    loaded: LoadedModel, requests: Sequence[Request], settings: GenerationSettings, observe: Observe | None = None
) -> tuple[Tensor, int, list[int | None]]:
    """The call of `generate` itself.

    Args:
        loaded: the model and its tokenizer.
        requests: of this batch.
        settings: how to generate.
        observe: is given the logits of each step, before anything is done to them.

    Returns:
        The sequences that `generate` returns, `(batch, length)`, where in them the response begins, and after how many
        tokens a stop ended it.
    """
    has_stops = any(request.stops for request in requests)
    config = _generation_config(loaded, settings, has_stops)
    prompts = [each.input_ids for each in requests]
    suits = Decoding.suits(loaded.model, config)
    decoding = Decoding(len(requests), shared_beginning(loaded.model, prompts) if suits else 0)
    ids, mask = _pad(prompts, config.pad_token_id, left=not loaded.is_encoder_decoder, shared=decoding.shared)
    # A decoder of its own begins with its start token instead of the prompt.
    start = 1 if loaded.is_encoder_decoder else ids.shape[1]
    stopping = StopTexts(loaded.require_tokenizer(), [each.stops for each in requests], start, decoding)
    processors: list[Any] = [_Observing(observe, decoding)] if observe is not None else []
    if settings.temperature > 0:
        processors.append(Drawing(settings.temperature, settings.top_p, [each.seed for each in requests], decoding))
    more: dict[str, Any] = {"custom_generate": decoding} if suits else {}
    if has_stops:
        more["stopping_criteria"] = [stopping]
    if processors:
        more["logits_processor"] = processors
    with without_notices():
        returned = loaded.model.generate(
            input_ids=ids.to(loaded.device), attention_mask=mask.to(loaded.device), generation_config=config, **more
        )
    return returned, start, stopping.ends


class _Observing(LogitsProcessor):
    """Shows the logits of each step, and leaves them as they are."""

    def __init__(self, observe: Observe, decoding: Decoding) -> None:
        self._observe = observe
        self._decoding = decoding

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._observe(self._decoding.rows, scores)
        return scores


def _ends(loaded: LoadedModel) -> list[int]:
    """The tokens that end a response.

    The tokenizer's own is added to the model's: fine-tuned chat models often teach the one and forget the other.
    """
    own = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    ends = list(own) if isinstance(own, list | tuple) else [own]
    return [
        int(token) for token in dict.fromkeys([*ends, loaded.require_tokenizer().eos_token_id]) if token is not None
    ]


def _generation_config(loaded: LoadedModel, settings: GenerationSettings, has_stops: bool) -> GenerationConfig:
    """The checkpoint's special tokens, and nothing else but the settings.

    Where tokens are drawn, `Drawing` does it, and `generate` takes what is largest then.
    """
    own = getattr(loaded.model, "generation_config", None)
    config = copy.deepcopy(own) if own is not None else GenerationConfig()  # type: ignore[no-untyped-call]
    for name, off in PLAIN.items():
        if getattr(config, name, None) not in (None, off):
            setattr(config, name, off)
    ends, tokenizer = _ends(loaded), loaded.require_tokenizer()
    config.max_length, config.max_new_tokens = None, settings.max_new_tokens
    config.eos_token_id = ends or None
    # Masked wherever it stands, so that any token will do.
    pads = [tokenizer.pad_token_id, config.pad_token_id, *ends, 0]
    if has_stops:
        # A row that a text has stopped is filled up with it, and has not ended with a token that it never gave.
        pads = [token for token in [*pads, *tokenizer.all_special_ids, 0, 1, 2] if token not in ends]
    config.pad_token_id = next(token for token in pads if token is not None)
    return config


def _pad(encoded: Sequence[Sequence[int]], pad: int, *, left: bool, shared: int) -> tuple[Tensor, Tensor]:
    """Ids and mask `(batch, pos)`, with padding after what rows share. The user's tokenizer stays as it is set."""
    width = max(len(ids) for ids in encoded)
    ids = torch.full((len(encoded), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(encoded):
        rest = len(prompt) - shared
        span = slice(width - rest, width) if left else slice(0, rest)
        for part, tokens in ((slice(0, shared), prompt[:shared]), (span, prompt[shared:])):
            ids[row, part] = torch.tensor(tokens, dtype=torch.long)
            mask[row, part] = 1
    return ids, mask
