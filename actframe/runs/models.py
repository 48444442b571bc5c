"""Name -> model and tokenizer."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from actframe.errors import ModelError
from actframe.runs.checkpoints import Checkpoint, explain_missing, find_checkpoint, identity, revision_of
from actframe.runs.quiet import without_bars

__all__ = ["KEPT_MODELS", "LoadedModel", "ModelSource", "forget_models", "load_model"]

KEPT_MODELS = 2
"""How many named models stay loaded for the next call; the one used longest ago is dropped first."""

_kept: OrderedDict[tuple[str, str, str], LoadedModel] = OrderedDict()
_loading = threading.RLock()


@dataclass(frozen=True)
class ModelSource:
    """What loads a model again, in another process too.

    Attributes:
        name: a hub id, `smollm2`, or the full path of a folder or file.
        device: None for the best that there is.
        dtype: None for what the checkpoint says.
    """

    name: str
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel:
    """A model in memory, with its tokenizer.

    Attributes:
        name: what records and results call it.
        model: a transformers model.
        tokenizer: None where the checkpoint has none; then `no_tokenizer` says why.
        revision: the commit of the hub's repository that the weights came from; None where they came from elsewhere.
        source: what loads it again; None where it was given, and not loaded here.
    """

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase | None = None
    no_tokenizer: str = "none was given"
    revision: str | None = None
    source: ModelSource | None = None

    def __repr__(self) -> str:
        return f"<LoadedModel {self.name!r}, {type(self.model).__name__} on {self.device}>"

    @property
    def is_chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def context_length(self) -> int | None:
        """How many tokens a sequence may have; None where the model sets no limit."""
        limit = getattr(self.text_config, "max_position_embeddings", None)
        return int(limit) - _positions_for_padding(self.model) if limit and limit > 0 else None

    @property
    def device(self) -> torch.device:
        """Where the model expects its input; one whose weights are offloaded, where it computes."""
        device = torch.device(self.model.device)
        if device.type != "meta":
            return device
        hooks = (getattr(module, "_hf_hook", None) for module in self.model.modules())
        found = (getattr(hook, "execution_device", None) for hook in hooks)
        return torch.device(next((place for place in found if place is not None), "cpu"))

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the prompt goes to an encoder, and the response comes from a decoder of its own."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    @property
    def text_config(self) -> Any:
        """The part of the model's configuration that describes its language model."""
        return self.model.config.get_text_config(decoder=True)

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, or a ModelError that says why there is none."""
        if self.tokenizer is None:
            raise ModelError(f"model {self.name!r} has no tokenizer ({self.no_tokenizer}); pass tokenizer=")
        return self.tokenizer

    def require_generation(self) -> None:
        """Raise a ModelError where the model cannot generate text, or would do so at random."""
        if not callable(getattr(self.model, "generate", None)):
            raise ModelError(
                f"model {self.name!r} is a {type(self.model).__name__}, which does not generate text; "
                f"load it with its language-model head (a ...ForCausalLM or ...ForConditionalGeneration class)"
            )
        if self.model.training:
            raise ModelError(
                f"model {self.name!r} is in training mode, where dropout makes its answers random: call model.eval()"
            )


def _positions_for_padding(model: Any) -> int:
    """How many of its position embeddings a model keeps free: where padding has one, the text begins behind that.

    So it is in RoBERTa and its descendants: their embeddings make position ids from a `padding_idx` of their own, which
    is that of their position embeddings too. Where only these have one, as in LXMERT, the text begins at the first.
    """
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        positions = getattr(module, "position_embeddings", None)
        if padding is not None and padding == getattr(positions, "padding_idx", None):
            return int(padding) + 1
    return 0


def load_model(
    model: str | os.PathLike[str] | LoadedModel | Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> LoadedModel:
    """Load a model by name, or take one that is loaded.

    A named model is kept for the next call with the same device and dtype (at most `KEPT_MODELS` of them, shared by all
    callers; see `forget_models`). Loading is safe from several threads: one loads, the others wait.

    Args:
        model: a hub id, a local folder, a GGUF file, `smollm2`, a `LoadedModel`, or a loaded transformers model.
        tokenizer: takes the place of the checkpoint's own; needed for a loaded model wherever text is.
        device: of a named model. Default: CUDA where there is any, else the CPU. `"auto"` spreads its layers over all
            GPUs, and what these have no room for over the memory of the machine, by accelerate: for models that one
            GPU does not hold. The GPUs take turns then, one computing at a time.
        dtype: of a named model. Default: what the checkpoint says.

    Raises:
        ModelError: it cannot be found or loaded; the message says what was tried and what can be done.
    """
    if isinstance(model, str | os.PathLike):
        loaded = _load_named(model, device, dtype)
    else:
        if device is not None or dtype is not None:
            raise ModelError("device= and dtype= are for models loaded by name; move a loaded one with model.to(...)")
        loaded = model if isinstance(model, LoadedModel) else _describe(model)
    return loaded if tokenizer is None else dataclasses.replace(loaded, tokenizer=tokenizer)


def forget_models() -> None:
    """Drop the named models that are kept for the next call, and their memory with them."""
    with _loading:
        _kept.clear()


def _describe(model: Any) -> LoadedModel:
    if not (isinstance(model, torch.nn.Module) and hasattr(model, "config")):
        raise ModelError(f"a model is a name, a path, or a loaded transformers model, not {type(model).__name__}")
    return LoadedModel(getattr(model, "name_or_path", None) or type(model).__name__, model)


def _load_named(
    name: str | os.PathLike[str], asked: str | torch.device | None, dtype: str | torch.dtype | None
) -> LoadedModel:
    device, kind = _device(asked), _dtype(dtype)
    key = (identity(name), str(device), str(kind))
    with _loading:
        if key not in _kept:
            own_dtype = None if kind == "auto" else str(kind).removeprefix("torch.")
            source = ModelSource(key[0], None if asked is None else str(asked), own_dtype)
            _kept[key] = dataclasses.replace(_read(find_checkpoint(name), device, kind), source=source)
        _kept.move_to_end(key)
        while len(_kept) > KEPT_MODELS:
            _kept.popitem(last=False)
        return _kept[key]


def _read(checkpoint: Checkpoint, device: torch.device | None, dtype: str | torch.dtype) -> LoadedModel:
    # Without the explicit False, transformers asks on the terminal whether to run a checkpoint's own code.
    options: dict[str, Any] = {"local_files_only": checkpoint.offline, "trust_remote_code": False}
    if checkpoint.gguf_file:
        options["gguf_file"] = checkpoint.gguf_file
    placed = options if device is not None else {**options, "device_map": "auto"}
    try:
        if checkpoint.offline:
            with without_bars():
                model = _read_model(checkpoint, dtype, placed)
        else:
            model = _read_model(checkpoint, dtype, placed)
        # Some quantized models refuse to be moved, even to where they are.
        model = model.eval() if device in (None, model.device) else model.eval().to(device)
    except Exception as error:
        if checkpoint.unreachable and isinstance(error, OSError):
            raise ModelError(f"cannot load model {checkpoint.name!r}: {explain_missing(checkpoint)}") from error
        reason = _first_words(error)
        if "trust_remote_code" in str(error):
            reason = (
                "it brings code of its own, which actframe does not run; load it yourself and pass the loaded model"
            )
        raise ModelError(f"cannot load model {checkpoint.name!r}: {reason}") from error
    # transformers says where the files were; records shall say what the user asked for.
    model.config.name_or_path = model.name_or_path = checkpoint.name
    revision = revision_of(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **options)
    except Exception as error:
        # A model without a tokenizer can still be captured from; whoever needs text gets this reason.
        return LoadedModel(checkpoint.name, model, no_tokenizer=_first_words(error), revision=revision)
    return LoadedModel(checkpoint.name, model, tokenizer, revision=revision)


def _read_model(checkpoint: Checkpoint, dtype: str | torch.dtype, options: dict[str, Any]) -> Any:
    if checkpoint.gguf_file:
        return AutoModelForCausalLM.from_pretrained(
            checkpoint.source, dtype=dtype, quantization_config=GgufConfig(dequantize=True), **options
        )
    config = AutoConfig.from_pretrained(checkpoint.source, local_files_only=checkpoint.offline, trust_remote_code=False)
    # The class that the checkpoint names: an Auto class would put a language-model head on an encoder.
    named = [getattr(transformers, name, None) for name in config.architectures or ()]
    classes = [each for each in named if isinstance(each, type) and issubclass(each, PreTrainedModel)]
    loader = classes[0] if classes else AutoModelForCausalLM
    return loader.from_pretrained(checkpoint.source, dtype=dtype, **options)


def _device(device: str | torch.device | None) -> torch.device | None:
    """A device, or None where accelerate chooses."""
    if device == "auto":
        if importlib.util.find_spec("accelerate") is None:
            raise ModelError("device 'auto' needs accelerate: pip install accelerate")
        return None
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:
        raise ModelError(
            f"no device {str(device)!r} here; available: auto, {', '.join(_devices())} ({_first_words(error)})"
        ) from error
    return chosen


def _devices() -> list[str]:
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _dtype(dtype: str | torch.dtype | None) -> str | torch.dtype:
    """As the checkpoint says (`"auto"`), or a floating torch dtype."""
    if dtype is None or dtype == "auto":
        return "auto"
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(chosen, torch.dtype) and chosen.is_floating_point):
        raise ModelError(f"no dtype {str(dtype)!r} to compute in; use float32, bfloat16, float16, float64 or auto")
    return chosen


def _first_words(error: BaseException) -> str:
    """The beginning of a library's message in one line: some go on for pages."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:400]}{' ...' if len(words) > 400 else ''}"
