"""The configuration of any architecture, made tiny: every size by what its name says, in the sub-configurations too.

The sizes are all different, so that nothing can be taken for something else: 3 rows, 11 columns, 8 heads of 16, 2 heads
for keys, 4 layers, 128 wide, 96 within the MLP, 6 experts, 199 tokens.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.configuration_utils import PreTrainedConfig

from zoo.words import CONFIGS, SIZES

HIDDEN, HEADS, KEY_HEADS, HEAD, MLP, LAYERS, EXPERTS, VOCABULARY = 128, 8, 2, 16, 96, 4, 6, 199
FIRST_SPECIAL = 100
"""Special tokens lie from here on, and what the zoo feeds lies below."""

RULES: list[tuple[str, Any]] = [
    (r".*(token|index|start|end|bos|eos|pad|sep|mask|cls|unk)_ids?", "id"),
    (r".*_(token|pad)_index|(unk|mask|pad|bos|eos)_index", "id"),
    (r"(.*_)?vocab(ulary)?_size(_per_layer_input)?|num_embeddings|.*_vocab", VOCABULARY),
    (r"(n_group|topk_group|num_expert_group|n_groups|num_groups)", 1),
    (r"(num_)?experts_per_tok(en)?|num_experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|top_k_experts", 2),
    (r"index_topk|index_topk_blocks", 4),
    (r"n_routed_experts|(moe_)?num_(local_)?experts|num_experts|n_experts|zero_expert_num", EXPERTS),
    (r".*(layers?|depth|n_layer|num_blocks)", "layers"),
    (r".*(key_value|kv)_(attention_)?heads|kv_n_heads|num_query_groups", "key heads"),
    (r".*heads?|n_head", HEADS),
    (r"qk_head_dim", 2 * HEAD),
    (r"index_head_dim", 2 * HEAD),
    (r".*(head_dim|head_size)|d_kv|d_head|dim_head|kv_channels|attention_head_size|.*_d_head|mamba_headdim", HEAD),
    (r"rotary_dim", HEAD // 2),
    (r".*rank", 16),
    (r".*(intermediate|ffn|feed_?forward|mlp).*(size|dim)|d_ff|dff|n_inner|d_inner|ffn_dim|mlp_dim|dim_ff", MLP),
    (r"(.*_)?(hidden_size|d_model|n_embd|hidden_dim|embed_dim|embedding_size|projection_dim|emb_dim|lru_width|dim|"
     r"out_hidden_size|embed_proj_dim|pooler_output_size|hidden_channels|backbone_hidden_size|output_dim|"
     r"embedding_dim|attention_hidden_size|text_embed_dim|latent_dim|d_latents|width)", HIDDEN),
    (r"(.*_)?(max_.*position.*|n_positions|n_ctx|max_seq_len|seq_len|context_length)", 256),
    (r"(.*_)?(image_size|img_size|input_size|crop_size)", 64),
    (r"(.*_)?patch_size", "patch"),
    (r"num_mel_bins|n_mels|n_mel_bins|input_feat_per_channel", 16),
    (r".*(state_size|d_state)", 16),
    (r"(conv_dim|hidden_sizes|embed_dims?|neck_hidden_sizes|.*channels|.*_dims|encoder_hidden_sizes)", "widths"),
    (r"(depths?|blocks_per_stage|num_self_attends_per_block)", "depths"),
    (r"sliding_window.*|attention_window|local_attention|attention_chunk_size", 16),
]  # fmt: skip


NEEDED = {"head_dim": HEAD, "num_key_value_heads": KEY_HEADS}
"""What some configurations leave empty though their models need it."""


def tiny_configs(kind: str, name: str) -> Iterator[PreTrainedConfig]:
    """The configuration of one class, and then, where the class names another one, that."""
    listed, own = CONFIG_MAPPING[kind], getattr(transformers, name).config_class
    yield _shrink(listed, {}, _Ids(), CONFIGS.get(name, {}))
    if isinstance(own, type) and own is not listed:
        yield _shrink(own, {}, _Ids(), CONFIGS.get(name, {}))


class _Ids:
    """Special tokens by their number in the full vocabulary; the same token has the same number everywhere."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def small(self, number: int) -> int:
        if number < 4:
            return number
        return self._known.setdefault(number, FIRST_SPECIAL + len(self._known))


def _shrink(kind: type[PreTrainedConfig], given: dict[str, Any], ids: _Ids, words: dict[str, Any]) -> PreTrainedConfig:
    words = {**CONFIGS.get(kind.model_type, {}), **words}
    full = kind(**given, **words.get("first", {}))
    own = {name: value for name, value in words.items() if not isinstance(value, dict) or name not in _subs(kind, full)}
    own.pop("first", None)
    about = _About(full)
    small: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        default = _default(field)
        value = given.get(field.name, default)
        actual = vars(full).get(field.name)
        if value is None and field.name in NEEDED and actual is None:
            value = NEEDED[field.name]
        by_layer = isinstance(actual, list) and len(actual) == about.layers
        if by_layer or field.name in ("rope_parameters", "image_size", *SIZES):
            value = actual
        if value is not None and value is not dataclasses.MISSING and not field.name.startswith("_"):
            small[field.name] = _size(field.name, value, ids, about)
    for name, sub in _subs(kind, full).items():
        spec = kind.sub_configs_defaults.get(name)
        more = spec.init_kwargs if spec is not None else {}
        below = words.get(name, {})
        small[name] = _shrink(type(sub), more, ids, below) if isinstance(below, dict) else below
    return kind(**{**small, **own})


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _subs(kind: type[PreTrainedConfig], full: PreTrainedConfig) -> dict[str, PreTrainedConfig]:
    return {name: value for name, value in vars(full).items() if isinstance(value, PreTrainedConfig)}


class _About:
    """What the rules ask about a configuration in full size."""

    def __init__(self, full: PreTrainedConfig) -> None:
        self.layers = self._number(full, "num_hidden_layers")
        heads = self._number(full, "num_attention_heads")
        self.key_heads = HEADS if heads and self._number(full, "num_key_value_heads") == heads else KEY_HEADS
        head = self._number(full, "head_dim") or (self._number(full, "hidden_size") // heads if heads else 0)
        self.shrinking = HEAD / head if head else 1.0

    def _number(self, full: PreTrainedConfig, name: str) -> int:
        value = vars(full).get(name)
        return value if isinstance(value, int) else 0


def _size(name: str, value: Any, ids: _Ids, about: _About) -> Any:
    if name in SIZES:
        return SIZES[name]
    if name == "rope_parameters":
        return _rope(value, about)
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return value
    rule = next((small for pattern, small in RULES if re.fullmatch(pattern, name)), None)
    if rule == "key heads":
        rule = about.key_heads
    if isinstance(value, list | tuple):
        if rule != "id" and about.layers > LAYERS and len(value) == about.layers:
            return type(value)(_sample(list(value)))
        return type(value)(_number(None if rule == HEADS else rule, each, ids) for each in value)
    return _number(rule, value, ids)


def _sample(by_layer: list[Any]) -> list[Any]:
    """The first layers, and in place of the last ones those kinds of layers that are not among them."""
    first = by_layer[:LAYERS]
    kinds = [kind for number, kind in enumerate(by_layer) if kind not in by_layer[:number]]
    missing = [kind for kind in kinds if kind not in first][: LAYERS - 1]
    return [*first[: LAYERS - len(missing)], *missing]


def _rope(given: Any, about: _About) -> Any:
    """The same rotary embedding with sections that fit the smaller heads."""
    if not isinstance(given, dict):
        return given
    small = {name: _rope(value, about) for name, value in given.items()}
    if sections := small.get("mrope_section"):
        shares = [section * about.shrinking for section in sections]
        rounded = [int(share) for share in shares]
        order = sorted(range(len(shares)), key=lambda place: rounded[place] - shares[place])
        for place in order[: round(sum(shares)) - sum(rounded)]:
            rounded[place] += 1
        small["mrope_section"] = rounded
    return small


def _number(rule: Any, value: Any, ids: _Ids) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_number(rule, each, ids) for each in value)
    if rule is None or isinstance(value, bool) or not isinstance(value, int) or not value:
        return value
    if rule == "id":
        return ids.small(value)
    if rule == "layers":
        return min(value, LAYERS)
    if rule == "depths":
        return min(value, 2)
    if rule == "widths":
        return max(value // 8, 8) if value >= 32 else value
    if rule == HEADS:
        return 1 if value == 1 else HEADS
    if rule == "patch":
        return 16 if value >= 14 else value
    return min(value, rule)
