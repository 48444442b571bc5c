"""What the rules of the zoo cannot know of some architectures."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "prediction_length": 5,
    "ngram_vocab_size_base": 97,
    "num_mel_bins": 16,
    "upsample_groups": 16,
    "base_channels": 32,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "num_queries": 10,
    "two_stage_num_proposals": 10,
    "num_query_tokens": 5,
    "num_latents": 5,
    "latent_query_num": 5,
    "adapter_input_size": 128,
    "adapter_in_dim": 128,
    "output_channels": 128,
    "n_window": 8,
    "num_filters": 4,
    "max_source_positions": 16,
}
"""Sizes that need a word of their own wherever the name occurs."""


def _sections(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}}


_ALTERNATING = ["sliding_attention", "full_attention"]
_SERIES = {"prediction_length": 5, "context_length": 9, "lags_sequence": [1, 2], "num_time_features": 2}
_NO_LAYER_INPUTS = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
_SWIN = {"embed_dim": 24, "window_size": 2}
_IMAGE_VOCABULARY = {"vocabulary_map": {"<image>": 90, "<|extra_200|>": 91, "IMGIMGA": 92}}

CONFIGS: dict[str, dict[str, Any]] = {
    "autoformer": _SERIES,
    "bamba": {"attn_layer_indices": [1, 3]},
    "blenderbot": {"encoder_layers": 4},
    "blip-2": {"image_token_index": 150},
    "chameleon": _IMAGE_VOCABULARY,
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _ALTERNATING},
    },
    "cosmos3_edge_text": _sections(2, 3, 3),
    "clvp": {"text_config": {"num_attention_heads": 4}, "speech_config": {"num_attention_heads": 4}},
    "cvt": {"embed_dim": [8, 24, 48]},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "efficientloftr": {"hidden_size": 256},
    "diffusion_gemma_text": {"num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 96},
    "donut-swin": _SWIN,
    "dots1": {"n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "emu3": _IMAGE_VOCABULARY,
    "ernie4_5_vl_moe_text": _sections(2, 2, 4),
    "esm": {"vocab_size": 99, "pad_token_id": 1, "mask_token_id": 3},
    "gemma3n_text": {"num_kv_shared_layers": 1, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 32}},
    "gemma4_assistant": {"first": {"text_config": _NO_LAYER_INPUTS}, "text_config": _NO_LAYER_INPUTS},
    "gemma4_unified_assistant": {"text_config": {"num_kv_shared_layers": 0}},
    "glm5_next_text": {"index_kpool": 2},
    "glm4v_text": _sections(2, 3, 3),
    "glm4v_moe_text": _sections(1, 1, 2),
    "glm_image_text": _sections(2, 3, 3),
    "glm_ocr_text": _sections(2, 3, 3),
    "granite4_vision": {"deepstack_layer_map": [[0, 0], [1, 1]], "downsample_rate": "1/2"},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hunyuan_vl_text": _sections(2, 2, 2, 2),
    "informer": _SERIES,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "instructblip": {"image_token_index": 150},
    "instructblipvideo": {"video_token_index": 150},
    "layoutlmv3": {"coordinate_size": 16, "shape_size": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lilt": {"hidden_size": 96, "channel_shrink_ratio": 4},
    "mamba2": {"num_heads": 16, "head_dim": 16, "n_groups": 1},
    "maskformer-swin": _SWIN,
    "mistral_large4_text": {"kv_source_layers": [0, 1, 1, 3]},
    "mllama": {"vision_config": {"intermediate_layers_indices": [1, 2], "vision_output_dim": 384}},
    "mobilevit": {"hidden_sizes": [16, 24, 32]},
    "molmo2": {"adapter_config": {"vision_feature_layer": [3, 2]}},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "paddleocr_vl_text": _sections(2, 3, 3),
    "qwen2_5_omni_text": _sections(2, 3, 3),
    "qwen2_5_vl_text": _sections(2, 3, 3),
    "qwen2_vl_text": _sections(2, 3, 3),
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "reformer": {
        "axial_pos_embds_dim": [32, 96],
        "axial_pos_shape": [4, 4],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
    },
    "ReformerModelWithLMHead": {"is_decoder": True},
    "step3p5": {"sliding_window": 16},
    "swin": _SWIN,
    "swin2sr": {"embed_dim": 24, "num_heads": [2, 2, 2, 2], "depths": [2, 2, 2, 2], "window_size": 4},
    "swinv2": _SWIN,
    "t5gemma2_encoder": {"text_config": {"dropout_rate": 0.0}},
    "time_series_transformer": _SERIES,
    "tvp": {"visual_prompt_size": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {},
}
"""By model type or class name, what its configuration needs to be tiny and to fit together."""

OTHER_STATES: dict[str, str] = {
    "BlipForConditionalGeneration": "its `hidden_states` are those of the vision model, not of the text decoder",
    "PocketTTSAudioTokenizerModel": "its `hidden_states` are those of the encoder, and it has a decoder as well",
}
"""Classes that return the hidden states of another tower than the one that is recorded under this name, and which."""

POSITIONS_LAST = {"cpmant": "its blocks see a learned prompt of 32 positions before the ids"}
"""Model types whose blocks compute other positions before those that are fed."""
