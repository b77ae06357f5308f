"""What the PEFT contract is tested over: an MLP, a BERT, a GPT-2 (Conv1D), an embedding model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import peft
import torch
from torch import Tensor, nn

from expandermask.peft._tuner import XoraConfig
from tests.adapters.models import bert, gpt2, mlp, tokens


class EmbeddingModel(nn.Module):
    """A table of 96 rows, mixed and projected; the table and one linear module can be adapted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(96, 64, padding_idx=0)
        self.mix = nn.Linear(64, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.table(ids))).mean(1))


@dataclass(frozen=True)
class Case:
    """A model, a head to save with the adapter if it has one, and what to adapt."""

    make: Callable[[], nn.Module]
    inputs: Tensor
    targets: str | list[str] = "all-linear"
    head: str | None = None
    settings: dict[str, object] = field(default_factory=dict)

    def config(self, **changes: object) -> XoraConfig:
        fields = {"r": 16, "target_modules": self.targets, "mask_seed": 0, **self.settings}
        return XoraConfig(**{**fields, **changes})

    def adapted(self, **changes: object) -> peft.PeftModel:
        """The model with an adapter that does something, in eval mode."""
        model = peft.get_peft_model(self.make().eval(), self.config(**changes))
        stir(model)
        return model.eval()

    def out(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return outputs(model, self.inputs)


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits, with a gradient."""
    found = model(inputs)
    return found if isinstance(found, Tensor) else found.logits


def stir(model: nn.Module, seed: int = 1) -> None:
    """Give every adapter values, and every head that trains others than the base's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "xora_" in name or "modules_to_save" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise.to(parameter.dtype) / 4)


def train(model: nn.Module, inputs: Tensor, steps: int = 3, lr: float = 0.1) -> None:
    """Some steps of SGD over all parameters, frozen ones included."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        outputs(model, inputs).pow(2).mean().backward()
        optimizer.step()


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The tuner layers of a PEFT model by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything in the state dict that is not the adapter's."""
    state = model.state_dict()
    own = ("xora_", "modules_to_save")
    return {n: t.clone() for n, t in state.items() if not any(word in n for word in own)}


CASES = {
    "mlp": Case(mlp, torch.randn(5, 64, generator=torch.Generator().manual_seed(3))),
    "bert": Case(bert, tokens(), head="classifier"),
    "gpt2": Case(gpt2, tokens()),
    "embedding": Case(EmbeddingModel, tokens() + 5, targets=["table", "mix"], head="head"),
}
