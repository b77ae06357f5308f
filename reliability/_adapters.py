"""What the figures about files share: a small adapter with everything in it, and its content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _common  # noqa: F401  # puts the package beside this folder first on the path
import torch
from torch import nn

from expandermask.adapters import AdapterConfig, attach
from expandermask.masks import MaskPlan

WEIGHTS = "adapter_model.safetensors"
CONFIG = AdapterConfig(
    r=4, lora_dropout=0.25, target_modules=["first", "second"], modules_to_save=["head"]
)


def model(seed: int = 0) -> nn.Module:
    """Two linear layers and a head."""
    torch.manual_seed(seed)
    layers = {"first": nn.Linear(8, 4), "second": nn.Linear(4, 8), "head": nn.Linear(8, 2)}
    return nn.ModuleDict(layers)


def adapted(seed: int = 1) -> nn.Module:
    """The model with an adapter, all values drawn, and a gate that trains."""
    made = model()
    attach(made, CONFIG, rng=0)
    made["first"].adapter("default").set_rank_gate(nn.Parameter(torch.ones(4)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def digest(made: nn.Module) -> str:
    """SHA-256 of a model: names, dtypes, shapes, bytes and flags of all its tensors."""
    found = hashlib.sha256()
    flags = {name: parameter.requires_grad for name, parameter in made.named_parameters()}
    for name, tensor in made.state_dict().items():
        line = f"{name} {tensor.dtype} {tuple(tensor.shape)} {flags.get(name)}\n"
        found.update(line.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def content(found: tuple[AdapterConfig, MaskPlan, dict[str, torch.Tensor]]) -> Any:
    """All that an adapter's file says, to be compared."""
    config, plan, stored = found
    tensors = {
        name: (str(t.dtype), tuple(t.shape), t.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, t in stored.items()
    }
    return config.to_dict(), plan.to_dict(), tensors


FREE = ("lora_alpha", "lora_dropout", "target_modules", "scaling", "modules_to_save")
"""Fields of a config that say what no hash can tell: whoever seals a file chooses them."""


def bound(found: Any) -> Any:
    """The `content` without what is free to choose: the fields above, the seed of a plan, and which
    of the recipes of one and the same mask is given."""
    config, plan, tensors = found
    config = {name: value for name, value in config.items() if name not in FREE}
    plan = {name: value for name, value in plan.items() if name != "seed"}
    masks = {
        module: {side: mask["sha256"] for side, mask in pair.items()}
        for module, pair in plan.pop("modules").items()
    }
    return config, plan, masks, tensors


def placed(folder: Path, data: bytes) -> Path:
    """A folder with these bytes as its adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(data)
    return folder
