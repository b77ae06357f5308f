"""The layer with the kernel on and off: one result, whatever is around the update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from expandermask.adapters import AdapterConfig, attach, set_adapters, set_backend
from expandermask.adapters.layers import kernel
from tests.adapters.models import trainable

runs = pytest.mark.skipif(not kernel.available(), reason="no kernel on this machine")


@pytest.fixture(autouse=True)
def _backend_back() -> Iterator[None]:
    yield
    set_backend("auto")


def model(dropout: float, names: tuple[str, ...], frozen: bool) -> nn.Module:
    torch.manual_seed(0)
    found = nn.Sequential(nn.Linear(256, 384), nn.Tanh(), nn.Linear(384, 256))
    for seed, name in enumerate(names):
        attach(found, AdapterConfig(r=16, lora_dropout=dropout), name=name, rng=seed)
    set_adapters(found, names)
    with torch.no_grad():
        for parameter in trainable(found):
            parameter.normal_(std=0.1)
    if not frozen:
        found[2].base.weight.requires_grad_(True)
    return found


def results(found: nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """Output and every gradient, the input's too, of one step with the same draws."""
    torch.manual_seed(7)
    x = torch.randn(300, 256, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = found(x)
    out.float().pow(2).mean().backward()
    return [out.detach(), x.grad, *(p.grad for p in trainable(found))]


@runs
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("names", [("one",), ("one", "two")])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_changes_nothing_but_rounding(
    dropout: float,
    names: tuple[str, ...],
    frozen: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for name in ("masked_update", "masked_linear"):
        real = getattr(kernel, name)

        def counted(*args: Any, name: str = name, real: Any = real, **options: Any) -> Any:
            calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(kernel, name, counted)
    found = {}
    for backend in ("auto", "portable"):
        set_backend(backend)
        found[backend] = results(model(dropout, names, frozen), dtype)
    at_once = len(names) == 1 and not dropout and dtype == torch.float32
    assert calls.count("masked_linear") == at_once * (2 if frozen else 1)
    assert len(calls) == 2 * len(names)
    near = 5e-6 if dtype == torch.float32 else 3e-2
    for one, other in zip(found["auto"], found["portable"], strict=True):
        assert (one - other).abs().max() <= near * other.abs().max()


def test_a_wrong_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \('auto', 'portable'\), got 'gpu'"):
        set_backend("gpu")
