"""An input for a small model of any ``model_type``, by the names that its ``forward`` takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.architectures.tiny import TOKENS

LENGTH = 12
"""Tokens in a row."""


def ids(config: Any, length: int = LENGTH) -> torch.Tensor:
    """Two rows of tokens, none of them special."""
    top = getattr(config.get_text_config(), "vocab_size", None) or TOKENS
    generator = torch.Generator().manual_seed(3)
    return torch.randint(20, min(top, TOKENS), (2, length), generator=generator)


def noise(*shape: int) -> torch.Tensor:
    """Normal numbers, the same for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def pixels(config: Any, *before: int) -> torch.Tensor:
    """Two images, or two stacks of images with as many as ``before`` says."""
    image = getattr(config, "vision_config", config)
    side = getattr(image, "image_size", None) or 64
    sides = side if isinstance(side, list | tuple) else (side, side)
    return noise(2, *before, getattr(image, "num_channels", 3), *sides)


def seen(config: Any, count: int, **others: torch.Tensor) -> dict[str, torch.Tensor]:
    """Text in which each row begins with ``count`` places for its image."""
    token = getattr(config, "image_token_id", None)
    token = getattr(config, "image_token_index", None) if token is None else token
    tokens = ids(config, count + LENGTH)
    tokens[:, :count] = token
    types = (tokens == token).long()
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return given | {"mm_token_type_ids": types, "token_type_ids": types} | others


def patches(config: Any, width: int, count: int) -> dict[str, torch.Tensor]:
    """Text with images that come as rows of 16 patches."""
    return seen(
        config,
        count,
        pixel_values=noise(32, width),
        image_grid_thw=torch.tensor([[1, 4, 4], [1, 4, 4]]),
    )


def forecast(config: Any) -> dict[str, torch.Tensor]:
    """A time series: the past, its mask, and the future."""
    past = config.context_length + max(config.lags_sequence)
    time = config.num_time_features
    return {
        "past_values": noise(2, past),
        "past_time_features": noise(2, past, time),
        "past_observed_mask": torch.ones(2, past),
        "future_values": noise(2, config.prediction_length),
        "future_time_features": noise(2, config.prediction_length, time),
    }


def decisions(config: Any) -> dict[str, torch.Tensor]:
    """Six steps of two games."""
    return {
        "states": noise(2, 6, config.state_dim),
        "actions": noise(2, 6, config.act_dim),
        "rewards": noise(2, 6, 1),
        "returns_to_go": noise(2, 6, 1),
        "timesteps": torch.arange(6).repeat(2, 1),
        "attention_mask": torch.ones(2, 6),
    }


def globally(config: Any) -> dict[str, torch.Tensor]:
    """The first two tokens see, and are seen by, all others."""
    mask = torch.zeros(2, LENGTH, dtype=torch.long)
    mask[:, :2] = 1
    return {"global_attention_mask": mask}


Given = Callable[[Any], dict[str, torch.Tensor | None]]

GIVEN: dict[str, Given] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), lambda c: patches(c, 3 * 2 * 64, 4)),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), lambda c: patches(c, 3 * 2 * 64, 4)),
    **dict.fromkeys(("llava", "paligemma", "ovis2"), lambda c: seen(c, 16)),
    **dict.fromkeys(("gemma3", "aya_vision", "cohere2_vision", "blip-2"), lambda c: seen(c, 4)),
    **dict.fromkeys(("got_ocr2", "internvl"), lambda c: seen(c, 1)),
    **dict.fromkeys(("idefics3", "smolvlm"), lambda c: seen(c, 4, pixel_values=pixels(c, 1))),
    "idefics2": lambda c: seen(c, 64, pixel_values=pixels(c, 1)),
    **dict.fromkeys(("timesformer", "videomae", "vivit"), lambda c: {"pixel_values": pixels(c, 2)}),
    "vjepa2": lambda c: {"pixel_values_videos": noise(2, 2, 3, 32, 32)},
    **dict.fromkeys(("informer", "time_series_transformer"), forecast),
    **dict.fromkeys(("patchtst", "patchtsmixer"), lambda c: {"past_values": noise(2, 32, 2)}),
    "decision_transformer": decisions,
    "audio-spectrogram-transformer": lambda c: {"input_values": noise(2, 32, 32)},
    "speech_to_text": lambda c: {"input_features": noise(2, 64, 80)},
    "wav2vec2-bert": lambda c: {"input_features": noise(2, 64, 32)},
    "lxmert": lambda c: {"visual_feats": noise(2, 4, 16), "visual_pos": noise(2, 4, 4)},
    "perceiver": lambda c: {"inputs": ids(c)},
    "trocr": lambda c: {"encoder_hidden_states": noise(2, 6, c.d_model)},
    "longformer": globally,
    "led": globally,
}
"""What some types need besides, or instead of, what is made for all."""


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """An input by the names that the model's ``forward`` takes."""
    names = inspect.signature(model.forward).parameters
    config: Any = model.config
    main = getattr(model, "main_input_name", "input_ids")
    found: dict[str, torch.Tensor] = {}
    if main == "input_ids" or ("input_ids" in names and "pixel_values" in names):
        found["input_ids"] = ids(config)
        found["attention_mask"] = torch.ones(2, LENGTH, dtype=torch.long)
    if "pixel_values" in names and main != "input_values":
        found["pixel_values"] = pixels(config)
    if main == "input_values":
        found["input_values"] = noise(2, 4000)
    if main == "input_features":
        bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", 80)
        found["input_features"] = noise(2, bins, 2 * getattr(config, "max_source_positions", 32))
    if "decoder_input_ids" in names and config.is_encoder_decoder:
        found["decoder_input_ids"] = ids(config)
    given = GIVEN.get(config.model_type)
    if given is not None:
        found |= given(config)
    return {name: value for name, value in found.items() if value is not None and name in names}


def tensors(output: Any) -> list[torch.Tensor]:
    """Every tensor of floats in a model's output, in order."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if hasattr(output, "values") and not isinstance(output, torch.nn.Module):
        output = list(output.values()) if isinstance(output, dict) else []
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in tensors(item)]
    return []
