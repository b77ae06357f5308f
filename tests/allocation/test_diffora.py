"""DiffoRA: shares of a layer, their gradients, selections by count, adapters that are shared."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from expandermask.adapters import AdapterConfig, attach, export_peft, load_adapter, save_adapter
from expandermask.allocation import DiffoRA
from expandermask.errors import AdapterError, InvalidInputError
from tests.allocation.models import adapters

WIDTH = 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.query(x) * self.key(x)) + self.value(x)) + x


class Net(nn.Module):
    """Three layers of four modules each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def batch(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 12, WIDTH, generator=generator, dtype=dtype)
    return x, y


def net(left_degree: int = 4, *, double: bool = False) -> Net:
    torch.manual_seed(0)
    model = Net().double() if double else Net()
    attach(model, AdapterConfig(r=4, left_degree=left_degree), rng=1)
    return model


def policy_of(model: nn.Module, **changes: Any) -> DiffoRA:
    asked: dict[str, Any] = {"validation": [batch(90), batch(91)], "search_steps": 6, "loss": loss}
    policy = DiffoRA(**(asked | changes))
    policy.attach(model)
    return policy


def train(model: nn.Module, policy: DiffoRA, steps: range, optimizer: Any = None) -> Any:
    optimizer = optimizer or torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    for step in steps:
        optimizer.zero_grad()
        loss(model, batch(step)).backward()
        optimizer.step()
        policy.after_step(step)
    return optimizer


def test_shares_of_a_layer_sum_to_one_and_follow_the_validation_loss() -> None:
    model = net()
    policy = policy_of(model)
    weights = policy.module_weights()
    assert list(weights.values()) == [0.25] * 12
    gates = [float(own.module_gate) for own in adapters(model).values()]
    assert gates == [0.25] * 12
    train(model, policy, range(5))
    for i in range(3):
        own = [w for n, w in policy.module_weights().items() if f"layers.{i}." in n]
        assert sum(own) == pytest.approx(1)
        assert max(own) > 0.25 > min(own)
    gates = [float(own.module_gate) for own in adapters(model).values()]
    assert gates == list(policy.module_weights().values())
    assert all(policy.modules().values())


@pytest.mark.parametrize("degree", [2, 4])
def test_the_gradient_of_gamma_is_autograds_through_the_whole_model(degree: int) -> None:
    model = net(degree, double=True)
    data = batch(90, torch.float64)
    policy = policy_of(model, validation=[data])
    generator = torch.Generator().manual_seed(2)
    for own in adapters(model).values():
        own.lora_B.data.normal_(generator=generator)
    policy._gamma.data.normal_(generator=generator)
    start = policy._gamma.detach().clone()
    found: list[torch.Tensor] = []
    policy._adam.step = lambda: found.append(policy._gamma.grad.clone())
    policy._step_of_gamma(data)

    gamma = start.double().requires_grad_()
    twin = copy.deepcopy(net(degree, double=True))
    shares = gamma.view(3, 4).softmax(1).reshape(-1)  # modules come layer by layer
    for own, theirs, share in zip(
        adapters(twin).values(), adapters(model).values(), shares, strict=True
    ):
        own.load_state_dict(theirs.state_dict(), strict=False)
        own.set_module_gate(share)
    loss(twin, data).backward()
    assert gamma.grad is not None
    torch.testing.assert_close(found[0].double(), gamma.grad, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in model.parameters())  # nothing is left on the adapters


def test_a_step_of_gamma_by_hand() -> None:
    """Of 4 times the last module's share: with shares of 1/4 the gradient of gamma is -1/4, -1/4,
    -1/4 and 3/4, and Adam's first step is of the rate, against the sign."""
    model = net()
    last = [name.endswith("out") for name in adapters(model)]

    def four_times_the_last(model: nn.Module, _: Any) -> torch.Tensor:
        owned = zip(adapters(model).values(), last, strict=True)
        return sum(4 * own.module_gate for own, is_last in owned if is_last)

    policy = policy_of(model, loss=four_times_the_last, gate_rate=0.5)
    train(model, policy, range(1))
    up, down = math.exp(0.5), math.exp(-0.5)
    for name, weight in policy.module_weights().items():
        expected = (down if name.endswith("out") else up) / (3 * up + down)
        assert weight == pytest.approx(expected, rel=1e-6)


def test_gamma_follows_adam_on_validation_batches_in_turn() -> None:
    model, seen, gradients = net(), [], []

    def watched(model: nn.Module, data: Any) -> torch.Tensor:
        seen.append(data[0])
        return loss(model, data)

    policy = policy_of(model, loss=watched, gate_rate=0.3)
    step_of_adam = policy._adam.step

    def noting() -> None:
        gradients.append(policy._gamma.grad.double().clone())
        step_of_adam()

    policy._adam.step = noting
    train(model, policy, range(5))
    assert len(seen) == 5
    for i, x in enumerate(seen):
        assert torch.equal(x, batch(90 + i % 2)[0])
    gamma, mean, square = torch.zeros(3, 12, dtype=torch.float64)
    for t, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        size = (square / (1 - 0.999**t)).sqrt() + 1e-8
        gamma -= 0.3 * mean / (1 - 0.9**t) / size
    torch.testing.assert_close(policy._gamma.detach().double(), gamma, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rate", "count"), [(0.5, 2), (0.74, 2), (0.75, 3), (1.0, 4), (1 / 4, 1)])
def test_the_largest_shares_of_every_layer_are_selected(rate: float, count: int) -> None:
    model = net()
    policy = policy_of(model, select_rate=rate)
    train(model, policy, range(6))
    weights, selected = policy.module_weights(), policy.modules()
    for i in range(3):
        own = [n for n in selected if f"layers.{i}." in n]
        top = sorted(own, key=lambda n: -weights[n])[:count]
        assert {n for n in own if selected[n]} == set(top)
    assert policy.ranks() == {n: 4 if on else 0 for n, on in selected.items()}


def test_training_starts_anew_after_the_search() -> None:
    model = net()
    policy = policy_of(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    train(model, policy, range(5), optimizer)
    x = batch(5)[0]
    torch.manual_seed(0)
    plain = Net()
    assert not torch.allclose(model(x), plain(x))
    train(model, policy, range(5, 6), optimizer)
    torch.testing.assert_close(model(x), plain(x))
    for own in adapters(model).values():
        assert own.module_gate is None
        for p in (own.lora_A, own.lora_B):
            assert not any(t.any() for t in optimizer.state[p].values() if t.shape == p.shape)
    train(model, policy, range(6, 9), optimizer)
    assert not torch.allclose(model(x), plain(x))


@pytest.mark.parametrize("degree", [2, 4])
def test_modules_of_one_type_share_one_adapter(degree: int, tmp_path: Path) -> None:
    model = net(degree)
    policy = policy_of(model, share_rank=2)
    optimizer = train(model, policy, range(9))
    left = [n for n, on in policy.modules().items() if not on]
    own = adapters(model)
    kinds: dict[str, list[str]] = {}
    for name in left:
        kinds.setdefault(name.split(".")[-1], []).append(name)
    assert any(len(group) > 1 for group in kinds.values())
    for group in kinds.values():
        first = own[group[0]]
        for name in group:
            assert own[name].lora_A is first.lora_A
            assert own[name].lora_B is first.lora_B
            assert torch.equal(own[name].delta(), first.delta())
        assert first.lora_B.any()
    held = [p for g in optimizer.param_groups for p in g["params"]]
    distinct = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in held} == distinct
    assert len(held) == len(distinct)
    if degree == 4:
        shared = 2 * 2 * WIDTH * len(kinds)  # rank 2, A and B
        assert sum(p.numel() for p in held) == 6 * 2 * 4 * WIDTH + shared
        assert {policy.ranks()[n] for n in left} == {2}
    x = batch(70)[0]
    before = model(x)
    save_adapter(model, tmp_path / "within")
    policy.finish()
    torch.testing.assert_close(model(x), before)
    for kind, folder in ((save_adapter, "own"), (export_peft, "peft")):
        kind(model, tmp_path / folder)
    torch.manual_seed(0)
    for folder in ("within", "own"):
        torch.manual_seed(0)
        fresh = Net()
        load_adapter(fresh, tmp_path / folder)
        torch.testing.assert_close(fresh(x), before)


def sharing(model: nn.Module) -> tuple[DiffoRA, list[list[str]]]:
    """A policy past its selection, and the groups of modules that share values."""
    policy = policy_of(model, share_rank=2)
    train(model, policy, range(9))
    groups: dict[int, list[str]] = {}
    for name, own in adapters(model).items():
        groups.setdefault(id(own.lora_A), []).append(name)
    return policy, [names for names in groups.values() if len(names) > 1]


def test_a_state_dict_holds_shared_values_for_each_module_and_loads(tmp_path: Path) -> None:
    """By safetensors, which refuses tensors that share memory; and strictly."""
    model = net()
    policy, groups = sharing(model)
    assert groups
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    for names in groups:
        keys = [f"{name}.adapters.default.lora_B" for name in names]
        assert all(torch.equal(state[key], state[keys[0]]) for key in keys)
    again = net()
    policy_of(again, share_rank=2).load_state_dict(policy.state_dict())
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = batch(70)[0]
    assert torch.equal(again(x), model(x))
    own = adapters(again)
    assert all(own[n].lora_B is own[names[0]].lora_B for names in groups for n in names)


def test_a_copy_of_the_model_shares_among_its_own_modules() -> None:
    model = net()
    _, groups = sharing(model)
    twin = adapters(copy.deepcopy(model))
    for names in groups:
        assert all(twin[name].lora_A is twin[names[0]].lora_A for name in names)
        assert twin[names[0]].lora_A is not adapters(model)[names[0]].lora_A
        assert len(twin[names[1]].own_values()) == 2
        assert twin[names[1]].lora_A is not twin[names[0]].lora_A


def test_shared_values_are_named_once_and_frozen_together() -> None:
    model = net()
    _, groups = sharing(model)
    named = [name for name, _ in model.named_parameters() if "lora_" in name]
    extra = sum(len(names) - 1 for names in groups)
    assert len(named) == 2 * (len(adapters(model)) - extra)
    first, second = (adapters(model)[name] for name in groups[0][:2])
    second.let_train(False)
    assert not first.lora_A.requires_grad


def test_a_random_selection_has_the_counts_and_searches_nothing() -> None:
    seen = set()
    for seed in range(4):
        torch.manual_seed(0)
        model = Net()
        attach(model, AdapterConfig(r=4, left_degree=4), rng=seed)
        policy = policy_of(model, random=True, validation=(), search_steps=0)
        selected = policy.modules()
        seen.add(tuple(selected.values()))
        for i in range(3):
            assert sum(on for n, on in selected.items() if f"layers.{i}." in n) == 2
        train(model, policy, range(2))
        assert policy.modules() == selected
    assert len(seen) > 1


@pytest.mark.parametrize("stop", [2, 6, 8])
@pytest.mark.parametrize("share_rank", [None, 2])
def test_a_run_stopped_and_taken_up_gives_the_same_bits(stop: int, share_rank: int | None) -> None:
    model = net()
    policy = policy_of(model, share_rank=share_rank)
    optimizer = train(model, policy, range(stop))
    saved = copy.deepcopy((policy.state_dict(), model.state_dict(), optimizer.state_dict()))
    train(model, policy, range(stop, 11), optimizer)
    again = net()
    taken_up = policy_of(again, share_rank=share_rank)
    optimizer = torch.optim.AdamW(taken_up.groups(lr=1e-2))
    taken_up.follow(optimizer)
    taken_up.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    optimizer.load_state_dict(saved[2])
    train(again, taken_up, range(stop, 11), optimizer)
    assert taken_up.modules() == policy.modules()
    assert taken_up.module_weights() == policy.module_weights()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_modules_of_other_shapes_do_not_share() -> None:
    """Stages of two widths, as in Swin: the same names, and weights of two shapes."""
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList()
    for width in (8, 8, 4, 4):
        stage = nn.Module()
        stage.query, stage.value = nn.Linear(width, width), nn.Linear(width, width)
        model.layers.append(stage)
    attach(model, AdapterConfig(r=4, left_degree=4), rng=0)
    policy = DiffoRA(search_steps=0, random=True, share_rank=2)
    policy.attach(model)
    own = adapters(model)
    left = [n for n, on in policy.modules().items() if not on]
    for i, a in enumerate(left):
        for b in left[i + 1 :]:
            alike = own[a].shape == own[b].shape and a.split(".")[-1] == b.split(".")[-1]
            assert (own[a].lora_A is own[b].lora_A) == alike
    policy.finish()
    assert len({id(a.lora_A) for a in adapters(model).values()}) == 8


def test_a_loss_that_no_gate_reaches_is_refused() -> None:
    """As under reentrant checkpointing, where every gradient would be taken for zero."""
    model = net()
    policy = policy_of(model, loss=lambda model, data: torch.ones((), requires_grad=True) * 2)
    with pytest.raises(AdapterError, match="depends on none of the gates"):
        train(model, policy, range(1))


def test_a_validation_loss_that_is_not_finite_is_refused() -> None:
    model = net()
    policy = policy_of(model, validation=[(batch(0)[0] * float("nan"), batch(0)[1])])
    with pytest.raises(AdapterError, match="validation loss are not finite"):
        train(model, policy, range(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": []}, "batches is empty"),
        ({"search_steps": 0}, "search_steps must be at least 1"),
        ({"select_rate": 0}, r"select_rate must lie in \(0, 1\], got 0.0"),
        ({"select_rate": 1.1}, r"select_rate must lie in \(0, 1\], got 1.1"),
        ({"select_rate": 0.2}, r"selects no module of any layer; of 4, .* 0.25 selects one"),
        ({"share_rank": 0}, "share_rank must be at least 1"),
        ({"share_rank": 5}, "share_rank must be at most r = 4, got 5"),
        ({"gate_rate": 0}, "gate_rate must be positive"),
        ({"random": True}, "a random selection searches nothing"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        policy_of(net(), **changes)
