"""Subclasses of nn.Linear, nn.Embedding and Conv1D: which are taken for their parent."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.bart.modeling_bart import (
    BartLearnedPositionalEmbedding,
    BartScaledWordEmbedding,
)
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4GroupedLinear
from transformers.models.esm.modeling_esmfold import EsmFoldLinear
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.models.idefics.modeling_idefics import IdeficsDecoupledLinear
from transformers.models.llama4.modeling_llama4 import Llama4Router, Llama4TextConfig
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding
from transformers.pytorch_utils import Conv1D

from expandermask.masks.kinds import adaptable_shape, why_foreign


class Plain(nn.Linear):
    """A subclass without a forward of its own."""


class Noisy(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


class Pair(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


class Doubled(Conv1D):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Counting(nn.Linear):
    """Linear, with a counter that a trial run would move."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Float8(nn.Linear):
    """A layer that decodes what it stores."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.weight = nn.Parameter(self.weight.to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * 2)


class GroupedFloat8(Float8):
    """Stores codes too, of several matrices, and takes inputs in groups."""


def router() -> nn.Module:
    return Llama4Router(Llama4TextConfig(hidden_size=8, num_local_experts=4, pad_token_id=0))


def patched() -> nn.Module:
    layer = nn.Linear(8, 4)
    layer.forward = MethodType(lambda self, x: x, layer)
    return layer


def hooked_by_accelerate() -> nn.Module:
    from accelerate import hooks

    return hooks.add_hook_to_module(nn.Linear(8, 4), hooks.ModelHook())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Plain(8, 4),
        lambda: FalconLinear(8, 4),
        lambda: FalconLinear(8, 4, bias=False),
        lambda: EsmFoldLinear(8, 4),
        lambda: IdeficsDecoupledLinear(8, 4),
        lambda: Conv1D(4, 8),
        lambda: nn.MultiheadAttention(8, 2).out_proj,
        Float8,
        hooked_by_accelerate,
    ],
)
def test_what_computes_as_its_parent_is_taken_for_it(make: Any, device: str) -> None:
    with torch.device(device):
        module = make()
    rows = 8 if isinstance(module, type(nn.MultiheadAttention(8, 2).out_proj)) else 4
    assert why_foreign(module) is None
    assert adaptable_shape(module) == (rows, 8)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Noisy(8, 4),
        lambda: Pair(8, 4),
        lambda: Doubled(4, 8),
        lambda: DeepseekV4GroupedLinear(8, 4, 2),
        lambda: DeepseekV4GroupedLinear(8, 4, 1),
        lambda: IdeficsDecoupledLinear(8, 4, 2),
        Counting,
        GroupedFloat8,
        router,
        patched,
        lambda: BartLearnedPositionalEmbedding(8, 4),
        lambda: OPTLearnedPositionalEmbedding(8, 4),
        lambda: MarianSinusoidalPositionalEmbedding(8, 4),
    ],
)
def test_what_computes_otherwise_is_not(make: Any, device: str) -> None:
    with torch.device(device):
        module = make()
    reason = why_foreign(module)
    assert reason is not None
    assert reason.startswith(f"{type(module).__name__} has a forward of its own")
    assert adaptable_shape(module) is None


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", [BartScaledWordEmbedding, Gemma3TextScaledWordEmbedding])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_an_embedding_that_scales_its_rows_is_one(kind: Any, scale: float, device: str) -> None:
    with torch.device(device):
        module = kind(8, 4, 0, embed_scale=scale)
    assert adaptable_shape(module) == (4, 8)


def test_an_embedding_that_scales_otherwise_is_none() -> None:
    class Squared(BartScaledWordEmbedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * self.embed_scale

    assert adaptable_shape(Squared(8, 4, 0, embed_scale=2.0)) is None


def test_asking_leaves_the_module_and_the_random_state_as_they_were() -> None:
    for module in (Counting(), Noisy(8, 4)):
        before = {key: value.clone() for key, value in module.state_dict().items()}
        names = set(vars(module))
        state = torch.get_rng_state()
        adaptable_shape(module)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
        assert module.training
        assert set(vars(module)) == names
        assert module.in_features == 8


def test_bitsandbytes_normalising_table_is_no_embedding() -> None:
    from bitsandbytes import nn as tables

    assert adaptable_shape(tables.StableEmbedding(8, 4)) is None
    assert adaptable_shape(tables.Embedding(8, 4)) == (4, 8)
    assert adaptable_shape(tables.Embedding4bit(8, 4)) == (4, 8)
    assert adaptable_shape(tables.Linear4bit(8, 4)) == (4, 8)
    assert adaptable_shape(tables.Linear8bitLt(8, 4)) == (4, 8)
