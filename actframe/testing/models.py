"""Tiny seeded models of many families, and a byte tokenizer, for tests that need a real model in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

__all__ = ["FAMILIES", "tiny_model", "tiny_tokenizer"]

_COMMON: dict[str, Any] = {
    "vocab_size": 260,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
_DECODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
_WINDOWED = {**_DECODER, "sliding_window": 64}
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 4,
    "num_decoder_layers": 4,
    "num_heads": 4,
    "decoder_start_token_id": 258,
}
_MIXTRAL = {**_WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2}
_BERT = {**_DECODER, "type_vocab_size": 2}
_OPT = {**_DECODER, "ffn_dim": 48, "word_embed_proj_dim": 32}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "mistral": _WINDOWED,
    "gemma2": _WINDOWED,
    "gemma3_text": _WINDOWED,
    "gpt2": _GPT2,
    "gpt_neox": _DECODER,
    "opt": _OPT,
    "phi": _DECODER,
    "mixtral": _MIXTRAL,
    "bert": _BERT,
    "t5": _T5,
}
"""Model type -> the sizes that make it tiny: four blocks of width 32 (T5: four in each tower)."""


def tiny_model(family: str, *, seed: int = 0, attn_implementation: str | None = None, **config: Any) -> Any:
    """Build a model of one family with random weights, in float32 and eval mode.

    Args:
        family: a model type of transformers; the sizes of those in `FAMILIES` are known.
        seed: of the weights; the global random state is left as it was.
        attn_implementation: `"eager"` where attention patterns are wanted.
        config: overrides of the configuration.
    """
    sizes = {**_COMMON, **FAMILIES.get(family, _DECODER), **config}
    settings = AutoConfig.for_model(family, **sizes)
    kind: Any = AutoModelForCausalLM
    if settings.is_encoder_decoder:
        kind = AutoModelForSeq2SeqLM
    elif family == "bert":
        kind = AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(settings, attn_implementation=attn_implementation)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each byte, then `<bos>` 256, `<eos>` 257 and `<pad>` 258; it pads on the left."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    build: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = build(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", padding_side="left"
    )
    return wrapped
