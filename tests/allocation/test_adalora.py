"""AdaLoRA: scores and masks against PEFT's and against loops, budgets to the unit."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expandermask.adapters import AdapterConfig, attach, detach, merge
from expandermask.allocation import AdaLoRA
from expandermask.allocation.orthogonality import orthogonality
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError
from tests.allocation.models import MASKS, adapters, backward, net, train


def policy_of(model: nn.Module, **changes: Any) -> AdaLoRA:
    asked = {"target_rank": 2, "total_steps": 20, "warmup_steps": 2, "final_steps": 4} | changes
    policy = AdaLoRA(**asked)
    policy.attach(model)
    return policy


def slow_scores(history: list[dict[str, tuple[np.ndarray, ...]]], policy: AdaLoRA) -> np.ndarray:
    """Equations 7 to 11 entry by entry in float64, from dense A, B, lambda and their gradients."""
    scores: list[float] = []
    for name in history[0]:
        a, b, gate, mask_a, mask_b = (history[0][name][i] for i in (0, 2, 4, 6, 7))
        smooth = {}
        for key, shape in (("a", a.shape), ("b", b.shape), ("g", gate.shape)):
            smooth[key] = np.zeros(shape), np.zeros(shape)
        for step in history:
            a, grad_a, b, grad_b, gate, grad_gate, _, _ = step[name]
            for key, w, g in (("a", a, grad_a), ("b", b, grad_b), ("g", gate, grad_gate)):
                mean, deviation = smooth[key]
                for i in np.ndindex(w.shape):
                    seen = abs(w[i] * g[i])
                    mean[i] = policy.beta1 * mean[i] + (1 - policy.beta1) * seen
                    deviation[i] = policy.beta2 * deviation[i] + (1 - policy.beta2) * abs(
                        seen - mean[i]
                    )
        s = {key: mean * deviation for key, (mean, deviation) in smooth.items()}
        for j in range(len(gate)):
            scores.append(
                s["g"][j]
                + s["a"][j].sum() / mask_a[j].sum()
                + s["b"][:, j].sum() / mask_b[:, j].sum()
            )
    return np.array(scores)


def dense_state(model: nn.Module) -> dict[str, tuple[np.ndarray, ...]]:
    """A, its gradient, B, its gradient, lambda, its gradient, and the masks, all dense."""
    found = {}
    for name, own in adapters(model).items():
        gate, a, b = own.rank_gate, own.lora_A.detach().clone(), own.lora_B.detach().clone()
        assert isinstance(gate, nn.Parameter)
        numbers = []
        with torch.no_grad():
            kept = gate.detach().clone()
            gate.fill_(1.0)
            for values in ((a, b), (own.lora_A.grad, own.lora_B.grad)):
                own.lora_A.copy_(values[0])
                own.lora_B.copy_(values[1])
                numbers.append([t.double().numpy() for t in own.factors()])
            own.lora_A.fill_(1.0)
            own.lora_B.fill_(1.0)
            masks = [t.double().numpy() for t in own.factors()]
            own.lora_A.copy_(a)
            own.lora_B.copy_(b)
            gate.copy_(kept)
        (a1, b1), (ga, gb) = numbers
        assert gate.grad is not None
        found[name] = (a1, ga, b1, gb, kept.double().numpy(), gate.grad.double().numpy(), *masks)
    return found


@pytest.mark.parametrize("masks", MASKS)
def test_scores_are_those_of_a_loop_over_entries(masks: str) -> None:
    model = net(4, masks, double=True)
    policy = policy_of(model)
    optimizer = torch.optim.SGD(policy.groups(lr=0.1))
    history = []
    for step in range(5):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        history.append(dense_state(model))
        policy.after_backward(step)
        optimizer.step()
    expected = slow_scores(history, policy)
    np.testing.assert_allclose(policy.scores().numpy(), expected, rtol=2e-5, atol=1e-12)


def test_a_step_by_hand() -> None:
    """One module, two terms, numbers that can be followed on paper."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    from expandermask.adapters import AdapterConfig, attach

    attach(model, AdapterConfig(r=2, left_degree=2), rng=0)
    policy = policy_of(
        model, target_rank=1, total_steps=3, warmup_steps=0, final_steps=1, beta1=0.5
    )
    own = adapters(model)["0"]
    gate = own.rank_gate
    assert isinstance(gate, nn.Parameter)
    with torch.no_grad():
        own.lora_A.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # (inputs, ranks)
        own.lora_B.copy_(torch.tensor([[1.0, 1.0], [1.0, 3.0]]))
        gate.copy_(torch.tensor([5.0, 6.0]))
    own.lora_A.grad = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    own.lora_B.grad = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    gate.grad = torch.tensor([1.0, -1.0])
    policy.after_backward(0)
    # I of A: [[1, 0], [3, 4]], of B: [[2, 0], [4, 0]], of lambda: [5, 6]. From zero, Ibar = I / 2
    # and Ubar = 0.15 |I - I / 2|, so s = 0.0375 I^2.
    first = 25 + (1 + 9) / 2 + (4 + 16) / 2
    second = 36 + 16 / 2
    assert policy.scores().tolist() == pytest.approx([0.0375 * first, 0.0375 * second])
    # b(0) = 2, b(1) = 1 + (1/2)^3 rounded down, b(2) = 1: the second term stays.
    assert [policy.budget(t) for t in range(3)] == [2, 1, 1]
    policy.after_step(0)
    assert gate.tolist() == [5.0, 6.0]
    policy.after_step(1)
    assert gate.tolist() == [0.0, 6.0]
    assert policy.ranks() == {"0": 1}


def peft_twin(model: nn.Module, policy: AdaLoRA, r: int) -> Any:
    """PEFT's AdaLoRA on the same layers, with the adapters' values and gradients."""
    config = peft.AdaLoraConfig(
        init_r=r,
        target_r=int(policy.target_rank),
        tinit=policy.warmup_steps,
        tfinal=policy.final_steps,
        total_step=policy.total_steps,
        deltaT=1,
        beta1=policy.beta1,
        beta2=policy.beta2,
        target_modules=["0", "2"],
    )
    return peft.get_peft_model(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)), config)


def test_scores_masks_and_budgets_are_pefts_fed_the_same_gradients() -> None:
    r, model = 4, net(4)
    policy = policy_of(model, total_steps=30, final_steps=5, warmup_steps=3)
    twin = peft_twin(model, policy, r)
    allocator = twin.base_model.rankallocator
    layers = {n: twin.base_model.model[int(n)] for n in ("0", "2")}
    compared = 0
    optimizer = torch.optim.AdamW(policy.groups(lr=2e-2))
    for step in range(30):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        for name, own in adapters(model).items():
            layer = layers[name]
            with torch.no_grad():
                for theirs, ours in (
                    (layer.lora_A["default"], own.lora_A.T),
                    (layer.lora_B["default"], own.lora_B),
                    (layer.lora_E["default"], own.rank_gate.view(-1, 1)),
                ):
                    theirs.copy_(ours)
                gate = own.rank_gate
                layer.lora_A["default"].grad = own.lora_A.grad.T.clone()
                layer.lora_B["default"].grad = own.lora_B.grad.clone()
                layer.lora_E["default"].grad = gate.grad.view(-1, 1).clone()
        policy.after_backward(step)
        budget, pattern = allocator.budget_schedule(step)
        if step < 25:
            allocator.update_ipt(twin)
        if step > policy.warmup_steps:  # before, theirs masks nothing; at it, they are equal
            assert policy.budget(step) == budget
            before = [layers[n].lora_E["default"].detach().clone() for n in layers]
            pattern = allocator.mask_to_budget(twin, budget)
            kept = [k for key in sorted(pattern) for k in pattern[key]]
            for n, old in zip(layers, before, strict=True):
                layers[n].lora_E["default"].data.copy_(old)
            compared += 1
        optimizer.step()
        policy.after_step(step)
        if step > policy.warmup_steps:
            gates = torch.cat([own.rank_gate.detach() for own in adapters(model).values()])
            assert kept == (gates != 0).tolist()
    assert compared == 26
    assert sum(policy.ranks().values()) == 4


@given(
    st.integers(0, 8), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20), st.integers(1, 8)
)
@settings(deadline=None, max_examples=60)
def test_budgets_are_the_formula_in_fractions(
    target: int, total: int, warmup: int, final: int, r: int
) -> None:
    if warmup + final >= total or target > r:
        return
    policy = AdaLoRA(target_rank=target, total_steps=total, warmup_steps=warmup, final_steps=final)
    policy.attach(net(max(r, 2)))
    everything, last = 2 * max(r, 2), 2 * target
    found = [policy.budget(t) for t in range(total)]
    for t, b in enumerate(found):
        if t < warmup:
            assert b == everything
        elif t >= total - final:
            assert b == last
        else:
            left = 1 - Fraction(t - warmup, total - warmup - final)
            assert b == floor(last + (everything - last) * left**3)
    assert all(a >= b for a, b in pairwise(found))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("importance", ["smoothed", "sensitivity", "magnitude"])
def test_the_budget_is_met_exactly_after_every_step(masks: str, importance: Any) -> None:
    model = net(4, masks)
    policy = policy_of(model, importance=importance)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2, weight_decay=0.1))
    for step in range(20):
        optimizer.zero_grad()
        backward(model, policy, seed=step)
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
        assert sum(policy.ranks().values()) == policy.budget(step)
    assert sum(policy.ranks().values()) == 4


def test_a_masked_term_comes_back_only_by_ranking_again() -> None:
    model = net(2)
    policy = policy_of(model, target_rank=0.5, warmup_steps=0, importance="sensitivity")
    own = adapters(model)["0"]
    gate = own.rank_gate
    assert isinstance(gate, nn.Parameter)

    def step(number: int, gradients: list[float]) -> list[bool]:
        """A step in which only module "0" has gradients, in the vectors of its terms.

        Its lambda, being 0, has a gradient and no importance.
        """
        gate.data.zero_()
        gate.grad = torch.ones(2)
        for values in (own.lora_A, own.lora_B):
            values.data.fill_(1.0)
            values.grad = torch.tensor(gradients).expand(values.shape).clone()
        policy.after_backward(number)
        gate.data.add_(1.0)  # as an optimizer may move what is masked
        policy.after_step(number)
        return (gate != 0).tolist()

    assert step(15, [2.0, 1.0]) == [True, False]
    assert step(15, [2.0, 1.5]) == [True, False]
    assert step(15, [2.0, 3.0]) == [False, True]


def test_the_ranks_of_the_final_steps_stay() -> None:
    model = net(4)
    policy = policy_of(model, final_steps=8)
    optimizer = train(model, policy, range(13))
    ranks = policy.active()
    train(model, policy, range(13, 20), optimizer)
    assert all(torch.equal(ranks[n], mask) for n, mask in policy.active().items())


@pytest.mark.parametrize(("target", "total"), [(0, 0), (4, 8), (0.5, 1), (1.75, 3)])
def test_budgets_of_nothing_everything_and_fractions(target: float, total: int) -> None:
    model = net(4)
    policy = policy_of(model, target_rank=target)
    train(model, policy, range(20))
    assert sum(policy.ranks().values()) == total
    if total == 0:
        x = torch.randn(3, 8)
        before = model(x)
        merge(model)
        assert torch.equal(model(x), before)


def test_equal_scores_go_by_module_and_index() -> None:
    model = net(4)
    policy = policy_of(model)
    for own in adapters(model).values():
        assert isinstance(own.rank_gate, nn.Parameter)
        own.rank_gate.data.fill_(1.0)
        own.rank_gate.grad = torch.zeros(4)
    policy.after_backward(0)
    policy.after_step(19)
    assert policy.ranks() == {"0": 4, "2": 0}


def test_modules_without_gradients_and_steps_that_are_not_finite() -> None:
    model = net(4)
    policy = policy_of(model, orthogonality=0.0)
    train(model, policy, range(3))
    mean = policy.state_dict()["mean"].clone()
    backward(model, policy)
    own = adapters(model)["0"]
    assert own.lora_A.grad is not None
    own.lora_A.grad[0, 0] = float("nan")
    policy.after_backward(3)
    assert torch.equal(policy.state_dict()["mean"], mean)
    for p in (own.lora_A, own.lora_B, own.rank_gate):
        p.grad = None
    policy.after_backward(3)
    after = policy.state_dict()["mean"]
    count = own.lora_A.numel() + own.lora_B.numel()
    assert torch.allclose(after[:count], 0.85 * mean[:count])


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_no_budget_goes_to_modules_that_the_loss_does_not_reach(variant: str, used: bool) -> None:
    """Whose factors have gradients nevertheless, of the regulariser."""
    model = net(6)
    model.append(nn.Linear(5, 5))
    detach(model)
    attach(model, AdapterConfig(r=6, left_degree=6, target_modules=["0", "2", "3"]), rng=0)
    policy = AdaLoRA(target_rank=2, total_steps=20, orthogonality=0.1, variant=variant)
    policy.attach(model)

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = model[2](model[1](model[0](x)))
        return y + 0 * model[3](y.detach()) if used else y

    model.forward = forward
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    for step in range(20):
        train(model, policy, range(step, step + 1), optimizer)
        assert adapters(model)["3"].lora_A.grad.any()
        ranks = policy.ranks()
        assert ranks["0"] + ranks["2"] == min(12, policy.budget(step))
    assert ranks["3"] == 0
    assert sum(ranks.values()) == 6


def test_factors_of_a_module_whose_gate_is_frozen_still_count() -> None:
    model = net(4)
    policy = policy_of(model)
    gate = adapters(model)["0"].rank_gate
    gate.data.fill_(1.0)
    gate.requires_grad_(False)
    backward(model, policy)
    policy.after_backward(0)
    assert (policy.scores()[:4] > 0).all()


def test_where_no_gate_is_trained_terms_are_ranked_by_their_factors() -> None:
    class Constant(AdaLoRA):
        def start_terms(self, adapter: Any, terms: torch.Tensor, seed: int) -> None:
            adapter.set_rank_gate(torch.ones(adapter.r))

    model = net(4)
    policy = Constant(target_rank=2, total_steps=20, final_steps=4)
    policy.attach(model)
    for step in range(20):
        backward(model, policy, seed=step)
        policy.after_backward(step)
        policy.after_step(step)
        assert sum(policy.ranks().values()) == policy.budget(step)


def test_terms_are_not_ranked_without_gradients() -> None:
    model = net(4)
    policy = policy_of(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    for step in range(3):  # nothing is masked yet
        backward(model, policy)
        optimizer.step()
        policy.after_step(step)
    with pytest.raises(AdapterError, match="has seen no gradients to rank terms by; call after_ba"):
        policy.after_step(3)
    policy.load_state_dict(policy.state_dict())  # which has seen none either
    with pytest.raises(AdapterError, match="has seen no gradients to rank terms by; call after_ba"):
        policy.after_step(3)
    seeing = net(4)
    ahead = policy_of(seeing)
    train(seeing, ahead, range(3))
    policy.load_state_dict(ahead.state_dict())
    policy.after_step(3)
    optimizer.zero_grad()
    with pytest.raises(
        AdapterError, match=r"finds no gradients; .*call after_backward.*before zero_grad"
    ):
        policy.after_backward(3)


def test_orthogonality_is_its_definition() -> None:
    for masks in MASKS:
        model = net(4, masks)
        policy = policy_of(model)
        found = {True: 0.0, False: []}
        for own in adapters(model).values():
            own.rank_gate.data.fill_(1.0)
            a, b = own.factors()
            for gram in (a @ a.T, b.T @ b):
                norm = float((gram - torch.eye(4)).norm())
                found[True] += norm**2
                found[False].append(norm)
        own_adapters = list(adapters(model).values())
        assert float(orthogonality(own_adapters)) == pytest.approx(found[True], rel=1e-5)
        mean = float(np.mean(found[False]))
        assert float(orthogonality(own_adapters, squared=False)) == pytest.approx(mean, rel=1e-5)
        assert float(policy.loss().detach()) == pytest.approx(1e-3 * found[True], rel=1e-5)
        reference = policy_of(net(4, masks), variant="reference")
        assert float(reference.loss().detach()) == pytest.approx(0.1 * mean, rel=1e-5)


def test_the_first_update_is_zero_and_a_terms_vectors_are_as_long_under_a_mask() -> None:
    model = net(4)
    x = torch.randn(5, 8)
    before = model(x)
    policy_of(model)
    assert torch.equal(model(x), before)
    from expandermask.adapters import AdapterConfig, attach

    lengths = []
    for degree in (16, 2):
        wide = nn.Sequential(nn.Linear(2048, 2048))
        attach(wide, AdapterConfig(r=16, left_degree=degree), rng=0)
        policy_of(wide)
        own = adapters(wide)["0"]
        own.rank_gate.data.fill_(1.0)
        a, b = own.factors()
        lengths += [a.norm(dim=1).mean(), b.norm(dim=0).mean()]
    assert torch.tensor(lengths).sub(0.02 * 2048**0.5).abs().max() < 0.05


def test_a_run_stopped_and_taken_up_gives_the_same_ranks_and_bits() -> None:
    model = net(4)
    policy = policy_of(model)
    optimizer = train(model, policy, range(9))
    saved = {
        "model": {k: v.clone() for k, v in model.state_dict().items()},
        "policy": {k: v.clone() for k, v in policy.state_dict().items()},
    }
    import copy

    moments = copy.deepcopy(optimizer.state_dict())
    train(model, policy, range(9, 20), optimizer)
    again = net(4)
    taken_up = policy_of(again)
    again.load_state_dict(saved["model"])
    taken_up.load_state_dict(saved["policy"])
    optimizer = torch.optim.AdamW(taken_up.groups(lr=1e-2))
    optimizer.load_state_dict(moments)
    train(again, taken_up, range(9, 20), optimizer)
    assert taken_up.ranks() == policy.ranks()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_rank": -1}, "target_rank must be at least 0"),
        ({"target_rank": 5}, "at most the mean rank 4, got 5"),
        ({"target_rank": float("nan")}, "target_rank must be at least 0, got nan"),
        ({"target_rank": "all"}, "target_rank must be a real number"),
        ({"warmup_steps": 16}, r"must be less than total_steps = 20, got 16 \+ 4"),
        ({"total_steps": 0}, "total_steps must be at least 1"),
        ({"beta1": 1.0}, r"beta1 must lie in \(0, 1\), got 1.0"),
        ({"beta2": 0.0}, r"beta2 must lie in \(0, 1\)"),
        ({"orthogonality": -0.1}, "orthogonality must be at least 0"),
        ({"importance": "best"}, "importance must be one of"),
        ({"variant": "code"}, "variant must be one of"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        policy_of(net(4), **changes)


def test_it_needs_an_adapter_of_its_own() -> None:
    policy = AdaLoRA(target_rank=1, total_steps=5)
    with pytest.raises(AdapterError, match=r"call AdaLoRA\.attach"):
        policy.after_step(0)
    with pytest.raises(AdapterError, match="no adapters attached"):
        policy.attach(nn.Sequential(nn.Linear(2, 2)))
    model = net(4)
    policy.attach(model)
    with pytest.raises(AdapterError, match="has an adapter in hand"):
        policy.attach(net(4))
    with pytest.raises(AdapterError, match="'0' has a gate already"):
        policy_of(model)
    merged = net(4)
    merge(merged)
    with pytest.raises(AdapterError, match="is merged"):
        policy_of(merged)
    with pytest.raises(FileFormatError, match="'deviation' is missing"):
        policy.load_state_dict({"mean": policy.state_dict()["mean"]})
    with pytest.raises(FileFormatError, match=r"must have shape \(108,\), got \(3,\)"):
        policy.load_state_dict({"mean": torch.ones(3), "deviation": torch.ones(3)})
