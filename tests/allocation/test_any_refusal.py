"""What every policy refuses: optimizers that do not train it, adapters that rest, odd states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from expandermask.adapters import AdapterConfig, attach, set_adapters
from expandermask.allocation import ALoRA, ROLoRA, SaLoRA, SoRA
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError
from tests.allocation.models import adapters, backward, net, train
from tests.allocation.test_any_policy import POLICIES, STEPS


@pytest.mark.parametrize("name", ["ALoRA", "ROLoRA", "DiffoRA"])
def test_parameters_are_not_exchanged_behind_an_optimizers_back(name: str) -> None:
    model = net(6)
    policy = POLICIES[name]()
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))

    def run() -> None:
        for step in range(STEPS):
            backward(model, policy, seed=step)
            policy.after_backward(step)
            optimizer.step()
            policy.after_step(step)

    with pytest.raises(AdapterError, match=r"call follow\(optimizer\)"):
        run()


@pytest.mark.parametrize("name", ["ALoRA", "ROLoRA", "DiffoRA"])
def test_several_processes_are_refused_where_parameters_are_exchanged(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expandermask.allocation.policy.several_processes", lambda: True)
    with pytest.raises(AdapterError, match=f"{name} exchanges parameters in the middle"):
        POLICIES[name]().attach(net(6))
    POLICIES["AdaLoRA"]().attach(net(6))


def test_settings_that_would_leave_nothing_are_told_or_raised_to_one_term() -> None:
    model = net(4)
    policy = ROLoRA(target_rank=0.5, total_steps=8)
    policy.attach(model)
    train(model, policy, range(8))
    assert sum(policy.finish().values()) == 1
    with pytest.raises(InvalidInputError, match=r"target_density must be at least 0\.11"):
        SaLoRA(target_density=0.05, start_step=0, end_step=3).attach(net(4))


def test_an_optimizer_has_to_train_what_the_policy_decides_about() -> None:
    for name, make in POLICIES.items():
        model, policy = net(6), make()
        early = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        policy.attach(model)
        if name in ("SaLoRA", "DiffoRA"):  # which train no gates by the model's optimizer
            policy.follow(early)
            continue
        with pytest.raises(AdapterError, match=r"does not train \d of the \d parameters that"):
            policy.follow(early)
    with pytest.raises(InvalidInputError, match=r"must be a torch.optim.Optimizer, got 'adam'"):
        policy.follow("adam")


@pytest.mark.parametrize("name", ["ALoRA", "ROLoRA"])
def test_an_optimizer_that_a_loaded_state_has_left_behind_is_refused(name: str) -> None:
    """Made, but not followed, before the state was loaded: it would train nothing."""
    model, policy = net(6), POLICIES[name]()
    policy.attach(model)
    train(model, policy, range(STEPS))
    again, taken_up = net(6), POLICIES[name]()
    taken_up.attach(again)
    optimizer = torch.optim.AdamW(taken_up.groups(lr=1e-2))
    taken_up.load_state_dict(policy.state_dict())
    with pytest.raises(AdapterError, match="before a state is loaded, or make it after that"):
        taken_up.follow(optimizer)
    taken_up.follow(torch.optim.AdamW(taken_up.groups(lr=1e-2)))


@pytest.mark.parametrize("name", POLICIES)
def test_an_adapter_that_is_not_active_is_refused(name: str) -> None:
    model = net(6)
    attach(model, AdapterConfig(r=6, left_degree=6), rng=1, name="other")
    set_adapters(model, "default")
    with pytest.raises(
        AdapterError, match=r"'other' is not active, so it does not train; .*default"
    ):
        POLICIES[name]().attach(model, name="other")
    POLICIES[name]().attach(model)


@pytest.mark.parametrize("name", POLICIES)
def test_all_that_needs_an_adapter_says_so_before_there_is_one(name: str) -> None:
    policy, optimizer = POLICIES[name](), torch.optim.SGD([nn.Parameter(torch.ones(1))])
    calls: dict[str, tuple[Any, ...]] = {
        "follow": (optimizer,),
        "after_backward": (0,),
        "after_step": (0,),
        "finish": (),
        "ranks": (),
        "active": (),
        "worth": (),
    }
    more: dict[str, dict[str, tuple[Any, ...]]] = {
        "AdaLoRA": {"budget": (0,), "scores": ()},
        "SaLoRA": {"density": ()},
        "ALoRA": {"importance": ()},
        "ROLoRA": {"level": (0,), "trained_terms": ()},
        "DiffoRA": {"module_weights": (), "modules": ()},
    }
    if name != "SoRA":  # which has no state
        calls["load_state_dict"] = ({},)
    for call, given in {**calls, **more.get(name, {})}.items():
        with pytest.raises(AdapterError, match=rf"call {name}.attach\(model\) first"):
            getattr(policy, call)(*given)
    with pytest.raises(AdapterError, match=rf"call {name}.attach\(model\) first"):
        policy.groups(lr=0.1)


@pytest.mark.parametrize("state", [None, "a state", {"mean": None}])
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_no_state_is_refused(name: str, state: object) -> None:
    policy = POLICIES[name]()
    policy.attach(net(6))
    with pytest.raises(FileFormatError, match=f"{name}: a state is tensors by name, got"):
        policy.load_state_dict(state)


def test_a_score_that_is_no_number_is_refused() -> None:
    policy = ALoRA(score=lambda model: None, start_rank=2, first_steps=1, recovery_steps=1)
    policy.attach(net(6))
    with pytest.raises(InvalidInputError, match="score must give a number, got None"):
        policy.importance()


@pytest.mark.parametrize("name", ["AdaLoRA", "SaLoRA"])
def test_an_adapter_that_rests_for_some_steps_needs_no_gradients(name: str) -> None:
    """Frozen, or while another one trains."""
    model = net(6)
    attach(model, AdapterConfig(r=6, left_degree=6), rng=1, name="other")
    set_adapters(model, "default")
    policy = POLICIES[name]()
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    set_adapters(model, "other")
    for step in range(3):
        backward(model, policy, seed=step)
        policy.after_backward(step)
    set_adapters(model, "default")
    if name == "AdaLoRA":
        own = [p for a in adapters(model).values() for p in a.parameters()]
        for p in own:
            p.requires_grad_(False)
        policy.after_backward(3)
        with pytest.raises(AdapterError, match="has seen no gradients to rank terms by"):
            policy.after_step(5)
        for p in own:
            p.requires_grad_(True)
    train(model, policy, range(3, STEPS), optimizer)
    assert sum(policy.ranks().values()) > 0


def test_gates_may_have_an_optimizer_of_their_own() -> None:
    policy = SoRA(strength=1.0)
    policy.attach(net(6))
    _, gates = policy.groups(lr=1e-2)
    policy.follow(torch.optim.SGD([gates]))
    policy.after_step(0)
