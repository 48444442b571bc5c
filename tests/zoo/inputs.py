"""What any class is fed: 3 rows, 11 columns, seeded; each argument of the forward by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from zoo.configs import FIRST_SPECIAL

ROWS, COLUMNS, DECODER_COLUMNS = 3, 11, 7
SIDE, BEFORE = 4, 2
"""An image is 4 x 4 patches, and its tokens come after two of text."""

MORE: list[list[str]] = [
    [],
    ["attention_mask"],
    ["pixel_values"],
    ["input_features"],
    ["input_values"],
    ["input_features_mask"],
    ["input_ids"],
    ["input_ids", "pixel_values"],
    ["input_features", "decoder_input_ids"],
    ["bbox"],
    ["bbox", "decoder_input_ids"],
    ["input_ids", "pixel_values", "bbox"],
    ["visual_feats", "visual_pos"],
    ["actions", "rewards", "returns_to_go", "timesteps"],
    ["future_values", "future_time_features"],
    ["encoder_hidden_states"],
    ["decoder_input_values"],
    ["input_ids", "image_embeds_position_mask"],
    ["input_ids", "pixel_values", "pixel_attention_mask"],
    ["input_ids", "pixel_values", "pixel_attention_mask", "spatial_shapes"],
]
"""Optional arguments that some models need all the same, tried in this order."""


def tiny_inputs(kind: str, model: nn.Module) -> Iterator[dict[str, Any]]:
    """Ways to call a model: with an image where it reads images and text, then the shortest first."""
    config: Any = model.config
    given = inspect.signature(model.forward).parameters
    words = OWN.get(kind, {})
    own = {name: make(config) if callable(make) else make for name, make in words.items() if name in given}
    if hasattr(model, "get_image_features") and find(config, *IMAGE_TOKENS) is not None and "input_ids" in given:
        yield from _with_image(model, own)
    needed = [name for name, each in given.items() if _is_needed(model, each)]
    for more in MORE:
        if set(more) <= set(given):
            wanted = [name for name in dict.fromkeys([*needed, *more]) if name not in own]
            for made in _ways(config, wanted):
                yield {name: value for name, value in {**made, **own}.items() if value is not None}


def _is_needed(model: Any, parameter: inspect.Parameter) -> bool:
    main = model.main_input_name if isinstance(model.main_input_name, str) else None
    required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    return required or parameter.name in (main, "decoder_input_ids")


def _ways(config: Any, wanted: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every combination of the forms that the arguments can have."""
    wanted = list(wanted)
    if any(name not in MAKERS for name in wanted):
        return
    packed = any(name.endswith("grid_thw") for name in wanted)
    forms = [PACKED.get(name, MAKERS[name]) if packed else MAKERS[name] for name in wanted]
    for way in product(*forms):
        try:
            yield {name: make(config) for name, make in zip(wanted, way, strict=True)}
        except (AttributeError, TypeError):  # this form needs what the configuration does not have
            continue


IMAGE_TOKENS = ("image_token_id", "image_token_index")


def _with_image(model: Any, own: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One image in each row, its tokens as many as the model makes features of it."""
    config = model.config
    given = inspect.signature(model.forward).parameters
    takes = inspect.signature(model.get_image_features).parameters
    wanted = [name for name in takes if name in MAKERS and (name in IMAGE or takes[name].default is inspect._empty)]
    for made in _ways(config, wanted):
        try:
            with torch.no_grad():
                features = model.get_image_features(**made)
        except Exception:
            continue
        count = _rows(getattr(features, "pooler_output", features)) // ROWS
        tokens = torch.full((ROWS, count), find(config, *IMAGE_TOKENS))
        text = ids(config)
        fed = torch.cat([text[:, :BEFORE], tokens, text[:, BEFORE:]], dim=1)
        is_image = (fed == tokens[0, 0]).long() if count else torch.zeros_like(fed)
        more = {name: is_image for name in ("mm_token_type_ids", "token_type_ids") if name in given}
        yield {**{name: value for name, value in made.items() if name in given}, "input_ids": fed, **more, **own}


def _rows(features: Any) -> int:
    if isinstance(features, list | tuple):
        return sum(_rows(each) for each in features)
    return features.numel() // features.shape[-1]


def ids(config: Any, columns: int = COLUMNS) -> Tensor:
    text = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", None) or FIRST_SPECIAL
    smallest = find(config, "vocab_size") or FIRST_SPECIAL
    return torch.randint(4, min(FIRST_SPECIAL, vocabulary, smallest), (ROWS, columns))


def find(config: Any, *names: str) -> Any:
    """The first of these attributes that the configuration or one below it has."""
    for name in names:
        for each in _all(config):
            if (value := vars(each).get(name)) is not None:
                return value
    return None


def _all(config: Any) -> list[Any]:
    below = [each for value in vars(config).values() if hasattr(value, "get_text_config") for each in _all(value)]
    return [config, *below]


def channels(config: Any) -> int:
    found = find(config, "num_channels", "in_channels", "in_chans")
    return found if isinstance(found, int) else 3


def _see(config: Any) -> Any:
    return next((each for each in _all(config) if "patch_size" in vars(each)), config)


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value[-2:]) if isinstance(value, list | tuple) else (value, value)


def pixels(config: Any) -> Tensor:
    height, width = _pair(find(config, "image_size", "img_size", "input_size", "crop_size") or 64)
    return torch.randn(ROWS, channels(config), height, width)


def video(config: Any) -> Tensor:
    height, width = _pair(find(config, "image_size", "img_size", "crop_size") or 64)
    frames = find(config, "num_frames", "frames_per_clip") or 2
    return torch.randn(ROWS, frames, channels(config), height, width)


def crops(config: Any) -> Tensor:
    return pixels(config)[:, None]


def _patch(config: Any, frames: int) -> int:
    height, width = _pair(_see(config).patch_size)
    return channels(_see(config)) * frames * height * width


def patches(config: Any) -> Tensor:
    return torch.randn(ROWS * SIDE**2, _patch(config, find(config, "temporal_patch_size") or 1))


def flat_patches(config: Any) -> Tensor:
    return torch.randn(ROWS * SIDE**2, _patch(config, 1))


def double_patches(config: Any) -> Tensor:
    return torch.randn(ROWS * SIDE**2, _patch(config, 2))


def square_patches(config: Any) -> Tensor:
    return torch.randn(ROWS * SIDE**2, channels(_see(config)), *_pair(_see(config).patch_size))


def patch_rows(config: Any) -> Tensor:
    return flat_patches(config).view(ROWS, SIDE**2, -1)


def mels(config: Any) -> Tensor:
    length = 2 * (find(config, "max_source_positions") or 32)
    return torch.randn(ROWS, find(config, "num_mel_bins", "n_mels", "feature_size") or 16, length)


def frames(config: Any) -> Tensor:
    bins = find(config, "feature_projection_input_dim", "num_mel_bins", "n_mels", "feature_size", "input_dim") or 16
    return torch.randn(ROWS, 64, bins)


def width(config: Any) -> int:
    return int(find(config, "hidden_size", "d_model", "embed_dim"))


def states(config: Any) -> Tensor:
    return torch.randn(ROWS, COLUMNS, width(config))


def series(config: Any) -> Tensor:
    return torch.randn(ROWS, config.context_length + max(config.lags_sequence))


def grid(config: Any) -> Tensor:
    return torch.tensor([[1, SIDE, SIDE]] * ROWS)


MAKERS: dict[str, list[Callable[[Any], Any]]] = {
    "input_ids": [ids],
    "decoder_input_ids": [lambda config: ids(config, DECODER_COLUMNS)],
    "pixel_values": [pixels, video, patch_rows, crops],
    "pixel_values_videos": [video],
    "input_values": [
        lambda config: torch.randn(ROWS, 2000),
        lambda config: torch.randn(ROWS, 1, 1920),
        lambda config: torch.randn(ROWS, 1920),
        states,
        frames,
    ],
    "input_features": [mels, frames, lambda config: mels(config)[:, None]],
    "input_features_mask": [
        lambda config: torch.ones(ROWS, mels(config).shape[-1], dtype=torch.long),
        lambda config: torch.ones(ROWS, 64, dtype=torch.long),
    ],
    "attention_mask": [lambda config: torch.ones(ROWS, COLUMNS, dtype=torch.long)],
    "hidden_states": [states],
    "inputs_embeds": [states],
    "bbox": [lambda config: torch.randint(0, 9, (ROWS, COLUMNS, 4)), lambda config: torch.rand(ROWS, COLUMNS, 4)],
    "grid_thw": [grid],
    "image_grid_thw": [grid],
    "image_sizes": [lambda config: torch.tensor([pixels(config).shape[-2:]] * ROWS)],
    "pixel_attention_mask": [lambda config: torch.ones(ROWS, SIDE**2, dtype=torch.long)],
    "spatial_shapes": [lambda config: torch.tensor([[SIDE, SIDE]] * ROWS)],
    "pixel_position_ids": [lambda config: _positions().expand(ROWS, -1, -1)],
    "image_position_ids": [lambda config: _positions().expand(ROWS, -1, -1)],
    "merge_sizes": [lambda config: torch.tensor([1] * ROWS)],
    "image_merge_sizes": [lambda config: torch.tensor([2] * ROWS)],
    "query_embeds": [states],
    "visual_feats": [lambda config: torch.randn(ROWS, 5, config.visual_feat_dim)],
    "visual_pos": [lambda config: torch.randn(ROWS, 5, config.visual_pos_dim)],
    "states": [lambda config: torch.randn(ROWS, COLUMNS, config.state_dim)],
    "actions": [lambda config: torch.randn(ROWS, COLUMNS, config.act_dim)],
    "rewards": [lambda config: torch.randn(ROWS, COLUMNS, 1)],
    "returns_to_go": [lambda config: torch.randn(ROWS, COLUMNS, 1)],
    "timesteps": [lambda config: torch.arange(COLUMNS).expand(ROWS, -1)],
    "state": [lambda config: torch.randn(ROWS, config.max_state_dim)],
    "action_embeds": [lambda config: torch.randn(ROWS, 6, config.dit_config.hidden_size)],
    "task_inputs": [lambda config: torch.randint(1, 50, (ROWS, 77))],
    "prompt_pixel_values": [pixels],
    "prompt_masks": [pixels],
    "noise_embeds": [states],
    "context_hidden_states": [
        lambda config: torch.randn(ROWS, COLUMNS, width(config) * len(find(config, "target_layer_ids") or [1]))
    ],
    "audio_mel": [frames],
    "audio_mel_mask": [lambda config: torch.zeros(ROWS, 64, dtype=torch.bool)],
    "flattened_patches": [lambda config: torch.cat([torch.ones(ROWS, 9, 2), torch.randn(ROWS, 9, 768)], dim=2)],
    "inputs": [states],
    "latents": [lambda config: torch.randn(ROWS, width(config), COLUMNS), states],
    "decoder_input_values": [states],
    "past_time_features": [lambda config: torch.randn(ROWS, series(config).shape[1], config.num_time_features)],
    "past_observed_mask": [lambda config: torch.ones(ROWS, series(config).shape[1])],
    "future_values": [lambda config: torch.randn(ROWS, config.prediction_length)],
    "future_time_features": [lambda config: torch.randn(ROWS, config.prediction_length, config.num_time_features)],
    "past_values_padding": [lambda config: torch.zeros(ROWS, 64, dtype=torch.long)],
    "freq": [lambda config: torch.zeros(ROWS, 1, dtype=torch.long)],
    "encoder_hidden_states": [lambda config: torch.randn(ROWS, 5, config.encoder_hidden_size)],
    "image_embeds_position_mask": [lambda config: (torch.arange(COLUMNS) < 5).expand(ROWS, -1)],
    "qformer_input_ids": [ids],
    "past_values": [
        lambda config: torch.randn(ROWS, config.context_length, config.num_input_channels),
        series,
        lambda config: torch.randn(ROWS, 64),
        lambda config: [torch.randn(64) for _ in range(ROWS)],
    ],
}
"""By the name of an argument, the forms that it can have."""

PACKED: dict[str, list[Callable[[Any], Any]]] = {
    "pixel_values": [patches, flat_patches, double_patches, square_patches],
    "hidden_states": [patches, flat_patches, double_patches, square_patches],
}
"""The same, for models that take the patches of all images in one row."""

OWN: dict[str, dict[str, Any]] = {
    "blt": {"use_cache": False},
    "dia": {"decoder_input_ids": lambda config: torch.randint(4, 50, (ROWS, DECODER_COLUMNS, 9))},
    "idefics": {
        "pixel_values": lambda config: pixels(config)[:, None],
        "image_attention_mask": lambda config: torch.ones(ROWS, COLUMNS, 1, dtype=torch.long),
    },
    "kyutai_speech_to_text": {"input_ids": lambda config: torch.randint(4, 50, (ROWS, COLUMNS, 33))},
    "lightglue": {"pixel_values": lambda config: torch.randn(1, 2, 3, 32, 32)},
    "mllama": {
        "pixel_values": lambda config: torch.randn(ROWS, 1, 4, 3, 64, 64),
        "aspect_ratio_ids": lambda config: torch.full((ROWS, 1), 6),
        "aspect_ratio_mask": lambda config: torch.ones(ROWS, 1, 4, dtype=torch.long),
        "cross_attention_mask": lambda config: torch.ones(ROWS, COLUMNS, 1, 4, dtype=torch.long),
    },
    "musicgen": {"input_ids": lambda config: torch.randint(4, 50, (ROWS * 4, COLUMNS))},
    "musicgen_melody": {"input_ids": lambda config: torch.randint(4, 50, (ROWS * 4, COLUMNS))},
}
"""By model type, arguments that its forward wants just so: a value, or what makes it of the configuration."""

IMAGE = (
    "pixel_values",
    "image_grid_thw",
    "image_sizes",
    "spatial_shapes",
    "pixel_attention_mask",
    "image_position_ids",
    "image_merge_sizes",
)


def _positions() -> Tensor:
    side = torch.arange(SIDE)
    return torch.cartesian_prod(side, side)[None]
