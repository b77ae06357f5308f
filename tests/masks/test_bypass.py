"""why_bypassed: weights that are read without a call, found in the source of classes around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

from expandermask.masks.bypass import why_bypassed
from expandermask.masks.places import bare_modules


class Holder(nn.Module):
    """Two layers; a subclass says what is done with them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.split = False


class Called(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x.to(self.one.weight.dtype)))


class Asked(Holder):
    """What T5 does: everything but the numbers of the weight is asked for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.one.weight
        if isinstance(self.two.weight, torch.Tensor) and self.two.weight is not None:
            x = x.to(weight.device).reshape(-1, weight.shape[1], weight.size(0) // weight.numel())
        return self.one(x)


class Multiplied(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(x @ self.one.weight.T)


class ByData(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(x @ self.one.weight.data)


class ByHelper(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self._first(x))

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.one.weight)


class ByProperty(Holder):
    @property
    def matrix(self) -> torch.Tensor:
        return self.one.weight.t()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix


class ByName(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.one
        matrix = layer.weight
        return x @ matrix


class ByGetattr(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ getattr(self.one, "weight")  # noqa: B009


class Inherited(Multiplied):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


class InLoop(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(self.layers):
            x = functional.linear(x, layer.weight) + number
        return x


class InComprehension(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.cat([layer.weight for layer in self.layers])


class LastOfList(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x) @ self.layers[-1].weight


class BySetting(Holder):
    """What BLOOM does: a way of computing that the config turns on."""

    def forward(self, x: torch.Tensor, given: torch.Tensor | None = None) -> torch.Tensor:
        if self.split and self.training:
            return x @ self.one.weight
        if given is not None:
            return given @ self.two.weight
        return self.two(self.one(x))


class InTraining(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.one.weight if self.training else self.one(x)


class Asking(nn.Module):
    """What Gemma 3n does: another method of a module inside is called, not its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Answering()
        self.others = nn.ModuleList([Answering()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for other in self.others:
            x = other.deeper(x)
        return self.inner.scaled(x)


class Answering(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(x)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.one.weight

    def deeper(self, x: torch.Tensor) -> torch.Tensor:
        return self._helper(x)

    def _helper(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.two.weight

    def never_called(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.layers[0].weight


def bypassed(model: nn.Module) -> set[str]:
    """Every linear module of the model whose weight is read without a call."""
    return {
        name
        for name, module in bare_modules(model)
        if name and isinstance(module, nn.Linear | nn.Embedding) and why_bypassed(model, name)
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Called, set()),
        (Asked, set()),
        (Multiplied, {"one"}),
        (ByData, {"one"}),
        (ByHelper, {"one"}),
        (ByProperty, {"one"}),
        (ByName, {"one"}),
        (ByGetattr, {"one"}),
        (Inherited, {"one"}),
        (InLoop, {"layers.0", "layers.1"}),
        (InComprehension, {"layers.0", "layers.1"}),
        (LastOfList, {"layers.1"}),
        (BySetting, set()),
        (InTraining, {"one"}),
    ],
)
def test_a_weight_that_is_read_is_found_and_one_only_asked_about_is_not(
    kind: Callable[[], nn.Module], expected: set[str]
) -> None:
    assert bypassed(kind()) == expected
    assert bypassed(kind().eval()) == expected
    outside = nn.Sequential(nn.Identity(), kind())
    assert bypassed(outside) == {f"1.{name}" for name in expected}


def test_a_setting_decides_whether_a_branch_can_run() -> None:
    model = BySetting()
    model.split = True
    assert bypassed(model) == {"one"}


def test_the_reason_names_the_class_that_reads() -> None:
    reason = why_bypassed(nn.Sequential(nn.Sequential(Multiplied())), "0.0.one")
    assert reason is not None
    assert reason.startswith("Multiplied can compute with its weight without calling it")


def test_methods_that_a_class_further_out_calls_are_read_too() -> None:
    # Which of the modules inside is asked is not told apart.
    assert bypassed(Asking()) == {"inner.one", "inner.two", "others.0.one", "others.0.two"}
    assert bypassed(nn.Sequential(Asking())) == {f"0.{name}" for name in bypassed(Asking())}
    assert bypassed(Answering()) == set()


def test_code_without_source_says_nothing() -> None:
    space: dict[str, Any] = {"Holder": Holder}
    exec("class Typed(Holder):\n def forward(self, x):\n  return x @ self.one.weight", space)
    assert bypassed(space["Typed"]()) == set()


def test_torch_attention_and_encoder_layers_are_found_without_a_list() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 8)
    assert bypassed(encoder) == {"linear1", "linear2", "self_attn.out_proj"}
    decoder = nn.TransformerDecoderLayer(8, 2, 8)
    assert bypassed(decoder) == {"self_attn.out_proj", "multihead_attn.out_proj"}
    assert bypassed(nn.Transformer(8, 2, 1, 1, 8)) >= {"encoder.layers.0.linear1"}


MAMBA = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
ARCHITECTURES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("Mamba", {**MAMBA, "state_size": 4}, {"x_proj", "dt_proj", "out_proj"}),
    ("FalconMamba", {**MAMBA, "state_size": 4}, {"x_proj", "dt_proj", "out_proj"}),
    ("Mamba2", {**MAMBA, "num_heads": 8, "head_dim": 8}, {"out_proj"}),
    ("Rwkv", {**MAMBA, "attention_hidden_size": 32}, {"output", "value"}),  # in eval
    ("Rwkv", {**MAMBA, "attention_hidden_size": 32, "rescale_every": 0}, set()),
    ("T5", {"d_model": 32, "d_ff": 64, "num_layers": 1, "vocab_size": 64}, set()),
    ("Bloom", {"hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 64}, set()),
    ("WavLM", {"num_hidden_layers": 1}, {"q_proj", "k_proj", "v_proj", "out_proj"}),
    ("Deberta", {"num_hidden_layers": 1, "relative_attention": True}, {"rel_embeddings"}),
    ("Bert", {"num_hidden_layers": 1}, set()),
    ("Whisper", {"encoder_layers": 1, "decoder_layers": 1}, set()),
]


@pytest.mark.parametrize(("name", "settings", "expected"), ARCHITECTURES)
def test_what_architectures_read(name: str, settings: dict[str, Any], expected: set[str]) -> None:
    config = getattr(transformers, f"{name}Config")(**settings)
    with torch.device("meta"):
        model = getattr(transformers, f"{name}Model")(config)
    assert {place.rpartition(".")[2] for place in bypassed(model)} == expected
