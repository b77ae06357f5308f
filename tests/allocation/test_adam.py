"""Adam on one tensor beside torch's, which the policies used before."""

from __future__ import annotations

import copy

import pytest
import torch

from expandermask.allocation._adam import Adam


def gradient(step: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    size = 10.0 ** (step % 7 - 4)
    return size * torch.randn(37, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.05, 3e-4])
def test_every_step_gives_torch_s_bits(dtype: torch.dtype, rate: float) -> None:
    """Also where an entry is -inf, as SaLoRA's are for terms that a mask leaves out."""
    first = torch.linspace(-2, 2, 37, dtype=dtype)
    first[5] = -torch.inf
    ours, theirs = first.clone().requires_grad_(), first.clone().requires_grad_()
    adam, reference = Adam(ours, rate), torch.optim.Adam([theirs], lr=rate)
    for step in range(200):
        ours.grad = gradient(step, dtype)
        theirs.grad = gradient(step, dtype)
        adam.step()
        reference.step()
        moments = reference.state[theirs]
        assert torch.equal(ours, theirs)
        assert torch.equal(adam.mean, moments["exp_avg"])
        assert torch.equal(adam.square, moments["exp_avg_sq"])
        assert float(adam.steps) == float(moments["step"]) == step + 1


@pytest.mark.parametrize("stop", [0, 1, 40])
def test_it_goes_on_from_its_state(stop: int) -> None:
    whole = torch.zeros(37, requires_grad=True)
    adam = Adam(whole, 0.1)
    for step in range(stop):
        whole.grad = gradient(step, torch.float32)
        adam.step()
    saved = copy.deepcopy((whole.detach(), adam.state_dict()))
    second = saved[0].clone().requires_grad_()
    resumed = Adam(second, 0.1)
    for name, tensor in resumed.state_dict().items():
        tensor.copy_(saved[1][name])
    for step in range(stop, 50):
        for tensor, own in ((whole, adam), (second, resumed)):
            tensor.grad = gradient(step, torch.float32)
            own.step()
    assert torch.equal(whole, second)
