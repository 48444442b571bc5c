"""The model of a self-test, and what it is run on."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actframe.capture.available import available_sites, layout_of
from actframe.capture.recorder import ActivationRecorder
from actframe.capture.sites import LAYER
from actframe.errors import ActframeError, ModelError
from actframe.runs.models import LoadedModel
from actframe.runs.quiet import without_notices

__all__ = ["Batch", "Subject"]

Batch = dict[str, Any]
"""The arguments of a forward pass."""

NEW_TOKENS = 6
_SEED = 20240915

# Of three different lengths. No tensor has the longest as another axis than its positions, as far as one can tell.
_TEXTS = [
    "The capital of France",
    "Water boils, as everybody knows, at",
    "To be, or not to be: that is the question, said",
]
_LENGTHS = (5, 9, 13)


class Subject:
    """The model under test.

    Args:
        loaded: the model, with or without a tokenizer.
        strategy: the capture strategy's name.
        inputs: what to run it on instead of a prompt, as its forward takes it.

    Attributes:
        untouched: what a forward pass returned before anything was ever attached to the model.
    """

    def __init__(self, loaded: LoadedModel, strategy: str, inputs: Mapping[str, Any] | None) -> None:
        self.loaded = loaded
        self.model: Any = loaded.model
        self.strategy = strategy
        self.layout = layout_of(self.model)
        beside = self.layout.beside  # Prompts are of text, and so towers beside the language model never run.
        sites = available_sites(self.model, strategy)
        self.sites = [site for site in sites if self.layout.places[site].tower not in beside]
        self.untouched: dict[str, Tensor] = {}
        self._given = dict(inputs) if inputs is not None else None
        self._takes = set(inspect.signature(self.model.forward).parameters)

    @property
    def stream(self) -> list[str]:
        """The sites of the residual streams: embeddings and layers."""
        return [site for site in self.sites if LAYER.fullmatch(site) or site.rpartition(".")[2] == "embeddings"]

    @property
    def takes_tokens(self) -> bool:
        """Whether it is run on prompts of tokens."""
        return self._given is None and getattr(self.model, "main_input_name", "input_ids") == "input_ids"

    @property
    def takes_padding(self) -> bool:
        """Whether its forward takes a mask of padding."""
        return self.takes_tokens and self.takes("attention_mask")

    @property
    def can_generate(self) -> bool:
        """Whether it generates text from tokens."""
        can = getattr(self.model, "can_generate", None)
        return self.takes_tokens and callable(can) and bool(can())

    @functools.cached_property
    def generates(self) -> bool:
        """Whether it generates text and the recorder takes that; where it does not, the ways say why."""
        if not self.can_generate:
            return False
        prompt = self.batch(self.prompts[:1])
        try:
            self.generate(prompt)
        except Exception:
            return False
        try:
            with self.recorder(self.stream):
                self.generate(prompt)
        except ActframeError:
            return False
        except Exception:
            return True  # no refusal but a fault, which the checks are to find
        return True

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the prompts go to an encoder."""
        return self.loaded.is_encoder_decoder

    def in_decoder(self, site: str) -> bool:
        """Whether a site belongs to a decoder beside an encoder."""
        return self.is_encoder_decoder and not site.startswith("encoder.")

    def takes(self, parameter: str) -> bool:
        """Whether the model's forward has a parameter of this name."""
        return parameter in self._takes

    @functools.cached_property
    def prompts(self) -> list[list[int]]:
        """Three prompts of different lengths: texts, or without a tokenizer any tokens that mean nothing special."""
        if self.loaded.tokenizer is not None:
            encoded = [list(ids) for ids in self.loaded.tokenizer(_TEXTS)["input_ids"]]
            lengths, tokens = {len(ids) for ids in encoded}, {token for ids in encoded for token in ids}
            if len(lengths) == len(encoded) and self.pad not in tokens:
                return encoded
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        special = {self.pad, *_special_tokens(self.model.config)}
        ordinary = [token for token in range(min(vocabulary, 5000)) if token not in special]
        chosen = torch.randperm(len(ordinary), generator=torch.Generator().manual_seed(_SEED)).tolist()
        return [[ordinary[chosen[(7 * length + i) % len(chosen)]] for i in range(length)] for length in _LENGTHS]

    @property
    def alike(self) -> list[list[int]]:
        """Three prompts that can be one batch: of one length, where the model takes no mask of padding."""
        shortest = min(map(len, self.prompts))
        return self.prompts if self.takes_padding else [prompt[:shortest] for prompt in self.prompts]

    @property
    def side(self) -> str:
        """Where the rows of a sequence are padded; what is only read, on the right, which moves no position."""
        return self.generation_side if self.generates else "right"

    @property
    def generation_side(self) -> str:
        """Where prompts are padded: on the left, if the response follows them."""
        return "right" if self.is_encoder_decoder else "left"

    @property
    def said(self) -> str:
        """What it is run on, in words."""
        if not self.takes_tokens:
            return "the inputs that were given" if self._given is not None else f"noise as {self.model.main_input_name}"
        made = "tokens of the vocabulary" if self.loaded.tokenizer is None else "a text"
        return f"prompts of {', '.join(str(len(prompt)) for prompt in self.prompts)} tokens, {made}"

    @property
    def dtype(self) -> str:
        """What it computes in."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def may_be_asked(self) -> bool:
        """Whether its forward takes `output_hidden_states`."""
        return bool({"output_hidden_states", "kwargs"} & self._takes)

    @property
    def pad(self) -> int:
        """The token that fills up rows; it is masked."""
        for owner in (self.loaded.text_config, self.loaded.tokenizer):
            if isinstance(token := getattr(owner, "pad_token_id", None), int) and token >= 0:
                return token
        return 0

    def batch(self, prompts: Sequence[list[int]], side: str = "left") -> Batch:
        """Prompts as the arguments of `generate`, padded where they differ in length."""
        width = max(map(len, prompts))
        rows, masks = [], []
        for prompt in prompts:
            fill = [self.pad] * (width - len(prompt))
            rows.append([*fill, *prompt] if side == "left" else [*prompt, *fill])
            zeros, ones = [0] * len(fill), [1] * len(prompt)
            masks.append([*zeros, *ones] if side == "left" else [*ones, *zeros])
        found = {"input_ids": self.tensor(rows)}
        if self.takes_padding:
            found["attention_mask"] = self.tensor(masks)
        return found

    def whole(self, batch: Batch) -> Batch:
        """The arguments of a bare forward pass: a decoder of its own gets the beginning of an answer."""
        if not self.is_encoder_decoder or "decoder_input_ids" in batch:
            return batch
        start = getattr(self.model.config, "decoder_start_token_id", None)
        begun = [self.pad if start is None else start, *self.prompts[1][:6]]
        return {**batch, "decoder_input_ids": self.tensor([begun] * len(batch["input_ids"]))}

    def standard(self) -> Batch:
        """The arguments of a forward pass of three rows."""
        return self.whole(self.batch(self.alike)) if self.takes_tokens else self.other_inputs()

    def other_inputs(self) -> Batch:
        """What a model that takes no tokens is run on: three pictures or sounds of noise, or what was given.

        Raises:
            ModelError: it is not known what this model takes.
        """
        if self._given is not None:
            return self._given
        config, name = self.model.config, self.model.main_input_name
        noise = torch.Generator().manual_seed(_SEED)
        if name == "pixel_values" and (size := getattr(config, "image_size", None)) is not None:
            height, width = (size, size) if isinstance(size, int) else tuple(size)
            shape: tuple[int, ...] = (3, getattr(config, "num_channels", 3), height, width)
        elif name == "input_values":
            shape = (3, 8000)
        else:
            raise ModelError(
                f"model {self.loaded.name!r} takes {name!r}, and it is not known here what that is like; give it to "
                "actframe.testing.selftest(model, inputs={...}) as the model's forward takes it"
            )
        return {name: torch.randn(shape, generator=noise).to(self.loaded.device, self.model.dtype)}

    def forward(self, batch: Batch, **options: Any) -> Any:
        """One forward pass."""
        with self.running():
            return self.model(**batch, **options)

    def generate(self, batch: Batch, **options: Any) -> Any:
        """Greedy, of a fixed length, unless the options say something else."""
        fixed = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 1, "eos_token_id": None}
        fixed |= {"pad_token_id": self.pad, "return_dict_in_generate": False}
        with self.running():
            return self.model.generate(**batch, **{**fixed, **options})

    def recorder(self, sites: Sequence[str], strategy: str | None = None) -> ActivationRecorder:
        """A recorder of these sites."""
        return ActivationRecorder(self.model, list(sites), strategy=strategy or self.strategy)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Without gradients, quiet, and with the same random numbers each time."""
        device = self.loaded.device
        devices = [device] if device.type == "cuda" else []
        with torch.no_grad(), without_notices(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(_SEED)
            yield

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[None]:
        """With the whole model in eval mode: dropout would make each pass another one."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def attachments(self) -> list[tuple[str, list[int]]]:
        """What is attached to each module now: its hooks, and a `generate` of its own."""
        return [(path, _attached(module)) for path, module in self.model.named_modules()]

    def tensor(self, rows: Sequence[list[int]]) -> Tensor:
        """Numbers on the model's device."""
        return torch.tensor(rows, device=self.loaded.device)


def _attached(module: nn.Module) -> list[int]:
    hooks = [hook for kind in (module._forward_hooks, module._forward_pre_hooks) for hook in kind.values()]
    hooks += [hook for kind in (module._backward_hooks, module._backward_pre_hooks) for hook in kind.values()]
    return [
        id(each) for each in (*hooks, vars(module).get("generate"), vars(module).get("forward")) if each is not None
    ]


def _special_tokens(config: Any) -> set[int]:
    """Every token that the configuration gives a meaning: the ends, padding, and places for pictures and sounds."""
    found: set[int] = set()
    for each in (config, config.get_text_config()):
        for name, value in vars(each).items():
            if name.endswith(("_token_id", "_token_index", "_token_ids")):
                found.update(
                    token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)
                )
    return found
