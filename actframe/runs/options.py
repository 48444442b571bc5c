"""The options that the simple functions share."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from transformers import PreTrainedTokenizerBase

from actframe.errors import nearest
from actframe.runs.generation import GenerationSettings

__all__ = ["InferenceOptions", "generation_settings"]


class InferenceOptions(TypedDict, total=False):
    """What every function of `actframe.inference` takes beside its own parameters.

    Attributes:
        tokenizer: of a loaded model; takes the place of a named one's own.
        device, dtype: of a named model, as in `load_model`.
        max_new_tokens, temperature, top_p, seed: as in `GenerationSettings`.
        chat: use the tokenizer's chat template. Default: where there is one.
        strategy: the capture strategy's name.
    """

    tokenizer: PreTrainedTokenizerBase | None
    device: str | torch.device | None
    dtype: str | torch.dtype | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    chat: bool | None
    strategy: str


def generation_settings(options: InferenceOptions) -> GenerationSettings:
    """The settings that the options mean, for one prompt at a time.

    Raises:
        TypeError: there is no such option; the message has the nearest, as a misspelt keyword's should.
        SettingsError: a value makes no sense.
    """
    known = InferenceOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"no option {name!r}{nearest(name, known)}; there are {', '.join(sorted(known))}")
    keys = ("max_new_tokens", "temperature", "top_p", "seed")
    chosen: dict[str, Any] = {key: options[key] for key in keys if key in options}  # type: ignore[literal-required]
    return GenerationSettings(batch_size=1, **chosen)
