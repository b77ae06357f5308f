"""Programs that read a LoRA folder, in slow obvious code; they differ in how they get the scale."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, attach
from expandermask.adapters.attachment import masked_layers
from expandermask.allocation import AdaLoRA, prune
from expandermask.masks import bernoulli
from tests.adapters.models import bert, gpt2, mlp, randomise
from tests.peft.cases import EmbeddingModel

Config = dict[str, Any]


def of_config(config: Config, place: str, rank: int) -> float:
    """lora_alpha / r, both of the config, for every module."""
    return config["lora_alpha"] / config["r"]


def of_tensor(config: Config, place: str, rank: int) -> float:
    """lora_alpha of the config by the rank of the module's own tensor."""
    return config["lora_alpha"] / rank


def of_patterns(config: Config, place: str, rank: int) -> float:
    """Each module's own rank and alpha, where a pattern names it."""
    numbers = {"rank": config["r"], "alpha": config["lora_alpha"]}
    for kind in numbers:
        for pattern, value in config[f"{kind}_pattern"].items():
            if re.fullmatch(rf"(.*\.)?({pattern})", place):
                numbers[kind] = value
    return numbers["alpha"] / numbers["rank"]


READERS: dict[str, Callable[[Config, str, int], float]] = {
    "config": of_config,
    "tensor": of_tensor,
    "patterns": of_patterns,
}


def updates(folder: Path, scale: Callable[[Config, str, int], float]) -> dict[str, Tensor]:
    """The update of every module in a folder, with one program's scale."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, a in tensors.items():
        if ".lora_A" in key or ".lora_embedding_A" in key:
            place = re.sub(r"\.lora_.*", "", key.removeprefix("base_model.model."))
            b = tensors[key.replace("_A", "_B")]
            found[place] = scale(config, place, len(a)) * (b.double() @ a.double())
    return found


# -- models whose adapters differ in rank and in scale ---------------------------------------------


def uniform() -> nn.Module:
    model = bert()
    attach(model, AdapterConfig(r=16, modules_to_save=["classifier"]), rng=0)
    randomise(model)
    return model


def conv1d() -> nn.Module:
    model = gpt2()
    attach(model, AdapterConfig(r=16, lora_alpha=5, scaling="paper"), rng=0)
    randomise(model)
    return model


def embedding() -> nn.Module:
    model = EmbeddingModel().eval()
    attach(model, AdapterConfig(r=16, target_modules=["table", "mix"]), rng=0)
    randomise(model)
    return model


def pruned() -> nn.Module:
    """Ranks 16, 14, 12, 0 and again, by gates."""
    model = gpt2()
    attach(model, AdapterConfig(r=16), rng=0)
    randomise(model)
    for number, layer in enumerate(masked_layers(model).values()):
        gate = torch.ones(16)
        gate[: 2 * number if number < 3 else 16] = 0
        layer.adapter("default").set_rank_gate(gate)
    prune(model)
    return model


def adalora() -> nn.Module:
    """Ranks as AdaLoRA left them."""
    model = mlp()
    attach(model, AdapterConfig(r=8, left_degree=8), rng=0)
    policy = AdaLoRA(target_rank=3, total_steps=20, final_steps=5)
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 64, generator=generator)
    for step in range(20):
        (nn.functional.mse_loss(model(x), x.roll(1, 0)) + policy.loss()).backward()
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
        optimizer.zero_grad()
    ranks = policy.finish()
    assert len(set(ranks.values())) > 1
    return model.eval()


def elements() -> nn.Module:
    """Bernoulli masks, whose modules differ in mean degree and so in scale."""
    model = mlp().eval()
    densities = {"0": ((64, 32), 0.1), "2": ((32, 64), 0.6)}
    masks = {
        name: tuple(bernoulli(n, 8, density, rng=seed) for seed, n in enumerate(sizes))
        for name, (sizes, density) in densities.items()
    }
    attach(model, MaskPlan.from_masks(masks, rng=0))
    randomise(model)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "uniform": (uniform, bert),
    "conv1d": (conv1d, gpt2),
    "embedding": (embedding, lambda: EmbeddingModel().eval()),
    "pruned": (pruned, gpt2),
    "adalora": (adalora, lambda: mlp().eval()),
    "elements": (elements, lambda: mlp().eval()),
}
"""For each kind the adapted model and the base it was made of."""


def deltas(model: nn.Module) -> dict[str, Tensor]:
    """The update of every adapted module, scale included."""
    return {
        place: layer.adapter("default").delta() for place, layer in masked_layers(model).items()
    }
