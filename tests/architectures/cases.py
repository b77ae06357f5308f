"""What a config's defaults do not tell of some model types."""

from __future__ import annotations

from typing import Any

SWIN = {
    "embed_dim": 32,
    "depths": [1, 1],
    "num_heads": [2, 4],
    "window_size": 4,
    "patch_size": 4,
    "image_size": 32,
}
MAMBA = {
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_n_groups": 1,
    "mamba_d_head": 16,
    "mamba_chunk_size": 16,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "head_dim": 8,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
SERIES = {
    "prediction_length": 4,
    "context_length": 8,
    "lags_sequence": [1, 2],
    "num_time_features": 2,
    "encoder_layers": 2,
}
PATCHES = {"context_length": 32, "patch_length": 8, "patch_stride": 8, "num_input_channels": 2}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
EYE = {"hidden_size": 32, "depth": 2, "num_heads": 4, "patch_size": 8}
EYE_OUT = EYE | {"out_hidden_size": 32}
DEEP = {"text_config": ROPE, "vision_config": EYE_OUT | {"deepstack_visual_indexes": [0]}}
FRAMES = {"num_frames": 2}

SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin"), SWIN),
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), LINEAR),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "minicpm3"), LATENT),
    **dict.fromkeys(("glm4_moe_lite", "youtu", "axk1", "glm_moe_dsa"), LATENT),
    **dict.fromkeys(("informer", "time_series_transformer"), SERIES),
    **dict.fromkeys(("patchtst", "patchtsmixer"), PATCHES | {"d_model": 32}),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), DEEP),
    "idefics3": {"scale_factor": 2},
    "smolvlm": {"scale_factor": 2},
    **dict.fromkeys(("timesformer", "videomae"), FRAMES),
    "vivit": FRAMES | {"tubelet_size": [2, 8, 8]},
    "vjepa2": {"frames_per_clip": 2, "crop_size": 32},
    "qwen2_vl": {"text_config": ROPE, "vision_config": EYE | {"embed_dim": 32}},
    "qwen2_5_vl": {"text_config": ROPE, "vision_config": EYE_OUT | {"window_size": 32}},
    "gemma3": {"mm_tokens_per_image": 4},
    "internvl": {"downsample_ratio": 0.5},
    "blip-2": {"num_query_tokens": 4, "image_token_index": 5},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "use_mamba_kernels": False,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {
        "layer_types": ["chunked_attention", "full_attention"],
        "moe_layers": [1],
        "no_rope_layers": [1, 0],
    },
    "gemma3n_text": {
        "intermediate_size": [64, 64],
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 128,
        "num_kv_shared_layers": 0,
        "laurel_rank": 8,
    },
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "esm": {"vocab_size": 64, "pad_token_id": 1, "mask_token_id": 2},
    "wav2vec2-bert": {"feature_projection_input_dim": 32},
    "decision_transformer": {"state_dim": 8, "act_dim": 4, "max_ep_len": 32},
    "audio-spectrogram-transformer": {
        "max_length": 32,
        "num_mel_bins": 32,
        "patch_size": 8,
        "frequency_stride": 8,
        "time_stride": 8,
    },
    "lxmert": {
        "visual_feat_dim": 16,
        "visual_pos_dim": 4,
        "l_layers": 1,
        "x_layers": 1,
        "r_layers": 1,
    },
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "num_self_attends_per_block": 1,
        "num_blocks": 1,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "sam_vision_model": {"initializer_range": 0.02},
    "sam_hq_vision_model": {"initializer_range": 0.02},
    "xmod": {"default_language": "en_XX"},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "mgp-str": {"num_bpe_labels": 64, "num_wordpiece_labels": 64, "num_character_labels": 38},
}
"""Sizes that no name tells, by model type and as `tests.architectures.tiny.small` takes them."""


FAST = ["bert", "llama", "mamba", "mixtral", "vit"]
"""Those that are looked at in every run of the tests."""

_INDEXER = "the indexer chooses tokens by their numbers, which have no gradient"
_POOLER = "a pooler that the head of this class does not use"
_ONE_KEY = "at this size each query has one key, whose weight is always 1"

REASONS = {
    "big_bird": _POOLER,
    "canine": "an encoder that only other heads use",
    "deepseek_v32": _INDEXER,
    "deepseek_v4": "the rows are too short to be compressed",
    "encoder-decoder": _POOLER,
    "fnet": _POOLER,
    "gemma3": _POOLER,
    "glm_moe_dsa": _INDEXER,
    "hy_v4": _INDEXER,
    "layoutlm": _POOLER,
    "luke": "the rows have no entities, and " + _POOLER,
    "markuplm": "no code of the model calls it",
    "pvt": _ONE_KEY,
    "pvt_v2": _ONE_KEY,
    "siglip": _POOLER,
    "vjepa2": "a predictor that the classifier does not use",
    "visual_bert": "the rows have no image",
}
"""Why some adapted modules of a type get no gradient, or zeros."""
