"""A small random model of any ``model_type`` of transformers.

A config class is made once with its own defaults. Every size in it, told by its name, is replaced
by a small one, and the class makes a config of these: what it derives from sizes, it derives anew.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto as auto

WIDTH, WIDER, LAYERS, TOKENS = 32, 64, 2, 128

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
    if re.fullmatch(r"(.*_)?layer_?drop", name):
        return 0.0  # a layer that is left out by chance gets no gradient
    if re.fullmatch(r"layer_?scale(_init)?(_values?)?", name) and isinstance(value, float):
        return 1.0  # at 1e-6 no adapter is seen in the output
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
    auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    auto.MODEL_FOR_MASKED_LM_MAPPING,
    auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    auto.MODEL_FOR_CTC_MAPPING,
    auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING,
    auto.MODEL_MAPPING,
)
"""Which of a type's model classes is taken, unless one is named."""


def model_class(config: PreTrainedConfig) -> type[nn.Module]:
    """The model class of a config: the first there is of the preferred kinds."""
    if config.model_type in CLASSES:
        return getattr(transformers, CLASSES[config.model_type])
    for mapping in PREFERRED:
        found = mapping.get(type(config), None)
        if found is not None:
            return found[0] if isinstance(found, tuple) else found
    raise KeyError(f"no model class for {type(config).__name__}")


CLASSES = {"squeezebert": "SqueezeBertForSequenceClassification"}
"""Model classes for types of which the first one would have nothing to train."""


def build(model_type: str, overrides: dict[str, Any], seed: int = 0) -> nn.Module:
    """A small random model of a type, the same for the same seed, in eval mode."""
    config = small(CONFIG_MAPPING[model_type], overrides)
    torch.manual_seed(seed)
    model = model_class(config)(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # behind a factor of zero nothing gets a gradient
                parameter.normal_(std=0.1)
    return model
