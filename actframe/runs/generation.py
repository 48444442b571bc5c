"""Prompts -> responses, in batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig

from actframe.benchmarks.prompting import Message
from actframe.errors import SettingsError
from actframe.runs.models import LoadedModel
from actframe.runs.prompts import check_lengths, encode_prompts
from actframe.runs.quiet import without_notices

__all__ = ["GenerationSettings", "Response", "generate_batch", "generate_responses", "plan_batches", "prepare_prompts"]

WINDOW_BATCHES = 16
"""Batches are sorted by length within this many of them: padding stays small, and answers come nearly in order."""

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
        seed: of the first batch; batch number `n` of a call draws with `seed + n`. The same prompts in batches of the
            same size give the same responses on the same machine, and torch's own random state is left as it was.
        batch_size: how many prompts are computed together.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
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


@dataclass(frozen=True)
class Response:
    """What the model answered to one prompt.

    Attributes:
        text: the response without special tokens.
        output_ids: its token ids, with the end-of-sequence token that closed it.
        prompt_tokens: the length of the prompt in tokens, chat template included.
        truncated: whether the token limit ended it, not the model.
    """

    text: str
    output_ids: list[int]
    prompt_tokens: int
    truncated: bool


def generate_responses(
    loaded: LoadedModel,
    prompts: Sequence[str],
    settings: GenerationSettings | None = None,
    chat: bool | None = None,
) -> list[Response]:
    """One response for each prompt, in the order of the prompts; `chat` as in `encode_prompts`.

    Raises:
        PromptError: a prompt is empty or too long, said before the model runs.
        ModelError: the model has no tokenizer, does not generate, or has no chat template where one was demanded.
    """
    settings = settings or GenerationSettings()
    encoded = prepare_prompts(loaded, prompts, settings, chat)
    responses: dict[int, Response] = {}
    for number, rows in enumerate(plan_batches([len(ids) for ids in encoded], settings.batch_size)):
        batch = generate_batch(loaded, [encoded[row] for row in rows], settings, settings.seed + number)
        responses.update(zip(rows, batch, strict=True))
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


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """The rows of each batch: sorted by length within a window, the longest first.

    >>> plan_batches([3, 9, 4, 8], batch_size=2)
    [[1, 3], [2, 0]]
    """
    window = batch_size * WINDOW_BATCHES
    batches = []
    for start in range(0, len(lengths), window):
        rows = sorted(range(start, min(start + window, len(lengths))), key=lambda row: -lengths[row])
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return batches


def generate_batch(
    loaded: LoadedModel, encoded: Sequence[Sequence[int]], settings: GenerationSettings, seed: int
) -> list[Response]:
    """One call of the model's `generate` for prompts from `prepare_prompts`, in their order.

    Args:
        loaded: the model and its tokenizer.
        encoded: token ids of each prompt of this batch.
        settings: how to generate; `seed` and `batch_size` are the caller's to apply.
        seed: what this batch draws with.
    """
    tokenizer = loaded.require_tokenizer()
    stops = _stops(loaded)
    config = _generation_config(loaded, settings, stops)
    ids, mask = _pad(encoded, config.pad_token_id, left=not loaded.is_encoder_decoder)
    with _drawing(loaded.device, seed if config.do_sample else None), without_notices():
        sequences = loaded.model.generate(
            input_ids=ids.to(loaded.device), attention_mask=mask.to(loaded.device), generation_config=config
        )
    # A decoder of its own begins with its start token instead of the prompt.
    start = 1 if loaded.is_encoder_decoder else ids.shape[1]
    responses = []
    for prompt, row in zip(encoded, sequences[:, start:].tolist(), strict=True):
        end = next((position + 1 for position, token in enumerate(row) if token in stops), None)
        output = row[:end]
        text = tokenizer.decode(output, skip_special_tokens=True)
        responses.append(Response(str(text), output, len(prompt), truncated=end is None))
    return responses


def _stops(loaded: LoadedModel) -> list[int]:
    """The tokens that end a response.

    The tokenizer's own is added to the model's: fine-tuned chat models often teach the one and forget the other.
    """
    own = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    stops = list(own) if isinstance(own, list | tuple) else [own]
    return [
        int(token) for token in dict.fromkeys([*stops, loaded.require_tokenizer().eos_token_id]) if token is not None
    ]


def _generation_config(loaded: LoadedModel, settings: GenerationSettings, stops: list[int]) -> GenerationConfig:
    """The checkpoint's special tokens, and nothing else but the settings."""
    own = getattr(loaded.model, "generation_config", None)
    config = copy.deepcopy(own) if own is not None else GenerationConfig()  # type: ignore[no-untyped-call]
    for name, off in PLAIN.items():
        if getattr(config, name, None) not in (None, off):
            setattr(config, name, off)
    if settings.temperature > 0:
        config.do_sample, config.top_k = True, 0
        config.temperature, config.top_p = settings.temperature, settings.top_p
    config.max_length, config.max_new_tokens = None, settings.max_new_tokens
    config.eos_token_id = stops or None
    # Masked wherever it stands, so that any token will do.
    pads = [loaded.require_tokenizer().pad_token_id, config.pad_token_id, *stops, 0]
    config.pad_token_id = next(token for token in pads if token is not None)
    return config


def _pad(encoded: Sequence[Sequence[int]], pad: int, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask `(batch, pos)`. Done here, so that the user's tokenizer is not set to another padding."""
    width = max(len(ids) for ids in encoded)
    ids = torch.full((len(encoded), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(encoded):
        span = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        ids[row, span] = torch.tensor(prompt)
        mask[row, span] = 1
    return ids, mask


@contextmanager
def _drawing(device: torch.device, seed: int | None) -> Iterator[None]:
    """Draw with a seed inside the block, and leave torch's random state as it was."""
    if seed is None:
        yield
        return
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if on_cuda else ()):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed_all(seed)
        yield
