"""A small random model of any ``model_type`` of transformers, and an input for it.

A config class is made once with its own defaults. Every size in it, told by its name, is replaced
by a small one, and the class makes a config of these: what it derives from sizes, it derives anew.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto as auto

WIDTH, WIDER, LAYERS, TOKENS = 32, 64, 2, 128
LENGTH = 12
"""Tokens in a row of the input."""

SIZES: dict[str, int] = {
    r"(.*_)?(num_hidden_layers|n_layers?|num_layers|num_block(s|_layers)?|depth)": LAYERS,
    r"(.*_)?(encoder|decoder)_layers|num_.*_layers|(.*_)?layers_depth": LAYERS,
    r"(.*_)?num_(key_value|kv)_heads|num_key_value_groups|n_kv_heads?|multi_query_group_num": 2,
    r"(.*_)?(num_(attention_)?heads|n_heads?|nhead|attention_heads|num_.*_heads)": 4,
    r"(.*_)?head_dim|d_kv|(qk_nope|v|qk)_head_dim|attention_head_size|kv_channels": 8,
    r"qk_rope_head_dim": 8,
    r"(.*_)?(intermediate_size|intermediate_dim|ffn_dim|d_ff|n_inner|ffn_hidden_size)": WIDER,
    r"dim_feedforward|(.*_)?ffn_hidden_size|d_inner|hidden_dim_ffn|(.*_)?mlp_dim": WIDER,
    r"(.*_)?(hidden_size|hidden_dim|d_model|n_embd|dim|embed_dim|embedding_size|emb_dim)": WIDTH,
    r"(.*_)?(projection_dim|out_channels|hidden_channels|classifier_proj_size|output_dim)": WIDTH,
    r"(.*_)?(lora_rank|num_queries|compress_dim|bottleneck_size)": 16,
    r"(.*_)?vocab_size(_or_config_json_file)?": TOKENS,
    r"(.*_)?(max_position_embeddings|n_positions|max_(source|target)_positions|n_ctx)": 64,
    r"(.*_)?max_seq_len(gth)?|max_sequence_length|seq_length": 64,
    r"(.*_)?(num|n)_(local_|routed_)?experts": 4,
    r"num_experts_per_tok|moe_topk|moe_k|num_selected_experts": 2,
    r"image_size|img_size": 32,
    r"patch_size": 8,
}
"""Small values by regular expressions of names; the first that matches a whole name counts."""


def small(kind: type[PreTrainedConfig], overrides: dict[str, Any]) -> PreTrainedConfig:
    """A config of a class with small sizes; ``overrides`` win, and go by the same names."""
    default = kind()
    parts = getattr(kind, "sub_configs", {})
    sizes: dict[str, Any] = {}
    special = 3
    for name in inspect.signature(kind.__init__).parameters:
        value = getattr(default, name, None)
        if name in parts:
            if isinstance(value, PreTrainedConfig):
                sizes[name] = small(type(value), overrides.get(name, {}))
        elif name not in overrides and name.endswith(("_token_id", "_token_index")):
            if isinstance(value, int) and value >= 0:
                special += 1
                sizes[name] = special
        elif name not in overrides:
            replaced = _smaller(name, value)
            if replaced is not None:
                sizes[name] = replaced
    sizes |= {name: value for name, value in overrides.items() if name not in parts}
    return kind(**sizes)


def _smaller(name: str, value: Any) -> Any:
    """A small value in place of a size; None for what is left as it is."""
    size = next((size for pattern, size in SIZES.items() if re.fullmatch(pattern, name)), None)
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and size is not None:
        return min(size, value)
    if isinstance(value, list | tuple) and value and all(type(item) is int for item in value):
        return type(value)(_small_item(name, item) for item in value)
    return None


def _small_item(name: str, value: int) -> int:
    """An item of a list of sizes, one a stage: widths and depths."""
    if re.search("depth|layers|num_blocks", name):
        return 1
    if re.search("head", name):
        return min(value, 4)
    return WIDTH if value > WIDTH and re.search("size|dim|channel", name) else value


PREFERRED = (
    auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_CTC_MAPPING,
    auto.MODEL_MAPPING,
)
"""Which of a type's model classes is taken, unless one is named."""


def model_class(config: PreTrainedConfig) -> type[nn.Module]:
    """The model class of a config: the first there is of the preferred kinds."""
    for mapping in PREFERRED:
        if type(config) in mapping.keys():
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise KeyError(f"no model class for {type(config).__name__}")


def build(model_type: str, overrides: dict[str, Any], seed: int = 0) -> nn.Module:
    """A small random model of a type, the same for the same seed, in eval mode."""
    config = small(CONFIG_MAPPING[model_type], overrides)
    torch.manual_seed(seed)
    return model_class(config)(config).float().eval()


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """An input by the names that the model's ``forward`` takes."""
    generator = torch.Generator().manual_seed(3)
    config: Any = model.config
    text = config.get_text_config()
    names = inspect.signature(model.forward).parameters
    top = min(getattr(text, "vocab_size", None) or TOKENS, TOKENS)

    def ids() -> torch.Tensor:
        return torch.randint(20, top, (2, LENGTH), generator=generator)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    main = getattr(model, "main_input_name", "input_ids")
    found: dict[str, torch.Tensor] = {}
    if main == "input_ids" or ("input_ids" in names and "pixel_values" in names):
        found["input_ids"] = ids()
        found["attention_mask"] = torch.ones(2, LENGTH, dtype=torch.long)
    if "pixel_values" in names and main != "input_values":
        image = getattr(config, "vision_config", config)
        side = getattr(image, "image_size", None) or 64
        sides = side if isinstance(side, list | tuple) else (side, side)
        found["pixel_values"] = noise(2, getattr(image, "num_channels", 3), *sides)
    if main == "input_values":
        found["input_values"] = noise(2, 4000)
    if main == "input_features":
        bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", 80)
        length = 2 * getattr(config, "max_source_positions", 32)
        speech = "speech_to_text" in config.model_type or "bert" in config.model_type
        found["input_features"] = noise(2, 64, bins) if speech else noise(2, bins, length)
    if "decoder_input_ids" in names and config.is_encoder_decoder:
        found["decoder_input_ids"] = ids()
    return {name: value for name, value in found.items() if name in names}


def tensors(output: Any) -> list[torch.Tensor]:
    """Every tensor of floats in a model's output, in order."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if hasattr(output, "values") and not isinstance(output, torch.nn.Module):
        output = list(output.values()) if isinstance(output, dict) else []
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in tensors(item)]
    return []
