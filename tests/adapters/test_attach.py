"""attach and detach: what changes, what comes back, and every refusal leaving the model alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, MaskedLinear, attach, detach, merge, unmerge
from expandermask.errors import AdapterError, InfeasibleShapeError, InvalidInputError
from tests.adapters.models import (
    ENCODER,
    SMALL,
    attached,
    bert,
    gpt2,
    layers,
    logits,
    mlp,
    randomise,
    same,
    state,
    trainable,
)

HEADED = AdapterConfig(r=16, modules_to_save=["classifier"])


@pytest.mark.parametrize("make", [bert, gpt2])
def test_attaching_changes_no_output_and_values_do(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = logits(model)
    plan = attach(model, SMALL, rng=0)
    assert torch.equal(logits(model), before)
    assert len(layers(model)) == len(plan) > 0
    randomise(model)
    assert (logits(model) - before).abs().max() > 0.1


def test_a_plan_and_a_config_with_its_seed_give_the_same_adapter() -> None:
    first, second = bert(), bert()
    plan = attach(first, SMALL, rng=3)
    assert attach(second, plan, config=SMALL) is plan
    assert plan == MaskPlan.for_model(bert(), r=16, left_degree=2, rng=3)
    assert same(state(first), state(second))
    other = bert()
    attach(other, SMALL, rng=4)
    assert not same(state(first), state(other))


def test_a_bare_plan_adapts_exactly_its_modules() -> None:
    model = bert()
    plan = MaskPlan.for_model(model, target_modules=["query"], r=8, left_degree=4, rng=0)
    attach(model, plan)
    found = [name for name, m in model.named_modules() if isinstance(m, MaskedLinear)]
    assert found == list(plan) == [f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 1)]


def test_only_values_and_modules_to_save_train() -> None:
    model = bert()
    plan = attach(model, HEADED, rng=0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    heads = [name for name in names if not name.endswith(("lora_A", "lora_B"))]
    assert heads == ["classifier.weight", "classifier.bias"]
    assert len(names) == 2 * len(plan) + 2


@pytest.mark.parametrize("merged", [False, True])
def test_detach_restores_modules_flags_and_every_bit(merged: bool) -> None:
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    modules, before = dict(model.named_modules()), state(model)
    attached(model, HEADED)
    if merged:
        merge(model)
    detach(model)
    assert all(model.get_submodule(name) is module for name, module in modules.items())
    assert same(state(model), before)
    with pytest.raises(AdapterError, match="no adapters attached"):
        detach(model)
    attach(model, HEADED, rng=0)


def test_detach_can_keep_what_was_merged() -> None:
    model = bert()
    attached(model, HEADED)
    trained = logits(model)
    with pytest.raises(AdapterError, match="call merge"):
        detach(model, keep_merged=True)
    merge(model)
    detach(model, keep_merged=True)
    assert not layers(model)
    torch.testing.assert_close(logits(model), trained, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == list(bert().state_dict())


def test_a_deep_copy_is_an_adapted_model_of_its_own() -> None:
    model = bert()
    attached(model, HEADED)
    twin = copy.deepcopy(model)
    randomise(twin, seed=9)
    assert not torch.equal(logits(twin), logits(model))
    detach(twin)
    assert same(state(twin), state(bert()))
    assert layers(model)


def test_training_mode_is_kept() -> None:
    assert not any(layer.training for layer in layers(model_in(bert())))
    assert all(layer.training for layer in layers(model_in(bert().train())))


def model_in(model: nn.Module) -> nn.Module:
    attach(model, SMALL, rng=0)
    return model


# -- refusals ------------------------------------------------------------------------------------


def tied() -> nn.Module:
    model = nn.ModuleDict({"embed": nn.Embedding(32, 64), "out": nn.Linear(64, 32, bias=False)})
    model["out"].weight = model["embed"].weight
    return model


def shared_module() -> nn.Module:
    layer = nn.Linear(64, 64)
    return nn.Sequential(layer, nn.Tanh(), layer)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return mlp()


def already() -> nn.Module:
    model = bert()
    attach(model, SMALL, rng=0)
    return model


def attached_inside() -> nn.Module:
    model = bert()
    attach(model.bert, SMALL, rng=0)
    return model


def transformer() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(64, 4, 64))


def attention() -> nn.Module:
    return nn.Sequential(nn.MultiheadAttention(64, 4))


def plan_for(model: nn.Module, **options: Any) -> MaskPlan:
    return MaskPlan.for_model(model, r=16, rng=0, **options)


def saving(*names: str, targets: Any = ENCODER) -> AdapterConfig:
    return AdapterConfig(r=16, target_modules=targets, modules_to_save=names)


REFUSED: list[tuple[Callable[[], Any], Any, str]] = [
    (lambda: nn.Sequential(nn.Conv2d(3, 3, 3)), SMALL, "matches no linear module or embedding"),
    (bert, saving(targets="nothing"), "matches no linear module or embedding"),
    (already, SMALL, "already has an adapter 'default' attached .13 modules."),
    (attached_inside, SMALL, "already has 13 adapters attached"),
    (tied, saving(targets=["out"]), "'out' is tied to 'embed.weight'"),
    (shared_module, saving(targets=["0"]), "'0' is tied to '2.weight'"),
    (tied, SMALL, r"no linear module .* passes over out \(its weight is tied to embed.weight"),
    (on_meta, SMALL, "'0' is on the meta device"),
    (lambda: nn.Linear(64, 32), SMALL, "the model itself is the module to adapt"),
    (transformer, saving(targets=["linear1"]), "TransformerEncoderLayer"),
    (attention, SMALL, "MultiheadAttention"),
    (mlp, plan_for(bert()), "adapts 'bert.encoder.*no linear module or embedding of this model"),
    (
        lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(32, 64)),
        plan_for(mlp()),
        r"\(32, 64\) weight, and the model's is \(64, 64\)",
    ),
    (bert, saving("head"), "'head', and no module is called that"),
    (bert, saving("classifier", "query"), "overlap"),
    (bert, saving("bert.encoder"), "overlap"),
    (gpt2, AdapterConfig(r=16, modules_to_save=["lm_head"]), "tied to 'transformer.wte.weight'"),
    (lambda: "bert", SMALL, "must be a torch.nn.Module, got str"),
]


@pytest.mark.parametrize(("make", "adapter", "message"), REFUSED)
def test_refuses_and_changes_nothing(make: Callable[[], Any], adapter: Any, message: str) -> None:
    model = make()
    is_module = isinstance(model, nn.Module) and not any(p.is_meta for p in model.parameters())
    before = state(model) if is_module else {}
    with pytest.raises(AdapterError, match=message):
        attach(model, adapter, rng=None if isinstance(adapter, MaskPlan) else 0)
    if is_module:
        assert same(state(model), before)


@pytest.mark.parametrize(
    ("adapter", "options", "message"),
    [
        (plan_for(mlp()), {"rng": 0}, "rng=0 beside a plan"),
        (plan_for(mlp()), {"config": AdapterConfig(r=8)}, "config has r=8"),
        (plan_for(mlp()), {"config": {"r": 16}}, "config must be an AdapterConfig"),
        (SMALL, {"config": SMALL}, "config was given twice"),
        ({"r": 16}, {}, "expected a MaskPlan or an AdapterConfig"),
        (SMALL, {"rng": 1.5}, "rng must be an integer"),
    ],
)
def test_refuses_arguments_that_contradict(
    adapter: Any, options: dict[str, Any], message: str
) -> None:
    model = mlp()
    before = state(model)
    with pytest.raises(InvalidInputError, match=message):
        attach(model, adapter, **options)
    assert same(state(model), before)


def test_an_infeasible_rank_names_those_that_work() -> None:
    with pytest.raises(InfeasibleShapeError, match=r"r=48 .* r = 16 or 32 works"):
        attach(mlp(), AdapterConfig(r=48), rng=0)


@pytest.mark.parametrize("verb", [detach, merge, unmerge])
def test_verbs_on_a_model_without_adapters_say_so(verb: Callable[[nn.Module], None]) -> None:
    with pytest.raises(AdapterError, match="call attach"):
        verb(bert())
    with pytest.raises(AdapterError, match="use the model given there"):
        verb(attached_inside())
    with pytest.raises(AdapterError, match=r"must be a torch\.nn\.Module"):
        verb(None)


def test_a_quantized_base_is_used_by_its_output_alone() -> None:
    class Rounded(nn.Linear):
        """A linear layer whose weight is stored as int8."""

        def __init__(self) -> None:
            super().__init__(64, 32)
            self.weight = nn.Parameter((self.weight * 100).to(torch.int8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight.to(x.dtype) / 100, self.bias)

    model = nn.Sequential(Rounded())
    before = state(model)
    attached(model)
    (model(torch.randn(5, 64)) ** 2).sum().backward()
    assert all(p.grad is not None for p in trainable(model))
    with pytest.raises(AdapterError, match="quantized"):
        merge(model)
    detach(model)
    assert same(state(model), before)
