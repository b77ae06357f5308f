"""What an adapter goes through on a model: train, merge, save, load, export, come off.

Every step compares with something known apart from it: the outputs before, a fresh copy of the
model, stock PEFT, or the bits of the weights.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import peft
import torch
from torch import Tensor, nn

from expandermask.adapters import (
    AdapterConfig,
    XoraConfig,
    attach,
    detach,
    export_peft,
    load_adapter,
    merge,
    save_adapter,
    unmerge,
)
from expandermask.errors import AdapterError
from expandermask.masks.targets import passed_over
from tests.adapters.models import same, state
from tests.architectures.inputs import tensors

CONFIG = AdapterConfig(r=4, lora_alpha=4)
TOLERANCE = 3e-4
"""Of the largest output, in float32: merging rounds each weight once."""

Build = Callable[[], nn.Module]
Inputs = dict[str, Tensor]


@dataclass
class Found:
    """What the journey saw of one model."""

    model_class: str
    adapted: dict[str, int] = field(default_factory=dict)
    """How many modules by name, layers' numbers left out."""
    passed: dict[str, str] = field(default_factory=dict)
    still: dict[str, str] = field(default_factory=dict)
    """Adapted modules that got no gradient, or a gradient of zeros, and which."""
    unexported: str = ""
    """Why `export_peft` refused."""


def travel(build: Build, inputs: Inputs) -> Found:
    """Take an adapter of `attach` and one of PEFT through everything; raise where a step fails."""
    model = build()
    found = Found(type(model).__name__)
    before = state(model)
    plain = outputs(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.passed = grouped(passed_over(model, r=CONFIG.r))
        plan = attach(model, CONFIG, rng=0)
    found.adapted = counted(plan)
    _require_close(outputs(model, inputs), plain, "before training the model is as it was")
    found.still = train(model, inputs)
    trained = outputs(model, inputs)
    _require_other(trained, plain)
    _merge(model, inputs, trained, partial(merge, model), partial(unmerge, model))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, f"{folder}/own")
        fresh = build()
        load_adapter(fresh, f"{folder}/own")
        _require_close(outputs(fresh, inputs), trained, "load_adapter gives the outputs")
    found.unexported = _export(model, build, inputs, trained)
    detach(model)
    assert same(state(model), before), "detach gives every bit back"
    _travel_in_peft(build, inputs, found, before)
    return found


def _export(model: nn.Module, build: Build, inputs: Inputs, trained: list[Tensor]) -> str:
    """Stock PEFT reads the export; else why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_peft(model, folder)
        except AdapterError as error:
            return str(error)
        stock = peft.PeftModel.from_pretrained(build(), folder).eval()
        _require_close(outputs(stock, inputs), trained, "stock PEFT gives the outputs")
    return ""


def _travel_in_peft(build: Build, inputs: Inputs, found: Found, before: dict[str, Tensor]) -> None:
    """The same by `peft.get_peft_model`."""
    config = XoraConfig(r=CONFIG.r, lora_alpha=CONFIG.lora_alpha, mask_seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(build(), config)
    plan = model.base_model.mask_plans["default"]
    assert counted(plan) == found.adapted, "PEFT's adapter is where attach's is"
    assert train(model, inputs) == found.still, "PEFT's adapter trains where attach's does"
    trained = outputs(model, inputs)
    _merge(model, inputs, trained, model.merge_adapter, model.unmerge_adapter)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        fresh = peft.PeftModel.from_pretrained(build(), folder).eval()
        _require_close(outputs(fresh, inputs), trained, "from_pretrained gives the outputs")
    model = model.unload()
    assert same(_without_flags(state(model)), _without_flags(before)), "unload gives bits back"


def _merge(
    model: nn.Module,
    inputs: Inputs,
    trained: list[Tensor],
    merges: Callable[..., None],
    unmerges: Callable[..., None],
) -> None:
    bits = state(model)
    merges()
    _require_close(outputs(model, inputs), trained, "merged equals unmerged")
    unmerges()
    assert same(state(model), bits), "unmerging gives every bit back"


def train(model: nn.Module, inputs: Inputs) -> dict[str, str]:
    """One step from drawn values; the adapted modules whose gradient is missing or zero."""
    values = {name: p for name, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in values.values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    model.train()
    for module in model.modules():
        if getattr(module, "track_running_stats", False):
            module.eval()  # its statistics are no part of an adapter
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(values.values(), lr=1e-3)
    loss(model(**inputs)).backward()
    optimizer.step()
    model.eval()
    return grouped({_place(name): said for name, said in _missing(values)})


def _missing(values: dict[str, nn.Parameter]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if value.grad is None:
            yield name, "no gradient"
        elif not bool(torch.isfinite(value.grad).all()):
            yield name, "a gradient that is not finite"
        elif not bool(value.grad.any()):
            yield name, "a gradient of zeros"


def loss(output: Any) -> Tensor:
    """The mean squared distance of every output from noise, summed."""
    generator = torch.Generator().manual_seed(4)
    parts = [
        (tensor - torch.randn(tensor.shape, generator=generator)).square().mean()
        for tensor in tensors(output)
        if tensor.requires_grad
    ]
    return torch.stack([part.float() for part in parts]).sum()


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """What the model computes, with the same random numbers each time."""
    torch.manual_seed(6)
    with torch.no_grad():
        found = tensors(model(**inputs))
    assert found, "the model has an output"
    return found


def _require_close(got: list[Tensor], wanted: list[Tensor], claim: str) -> None:
    assert len(got) == len(wanted), claim
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape, claim
        finite = torch.isfinite(other)
        assert torch.equal(torch.isfinite(one), finite), claim
        if finite.any():
            distance = (one - other)[finite].abs().max()
            assert distance <= TOLERANCE * other[finite].abs().max(), f"{claim}: off by {distance}"


def _require_other(got: list[Tensor], plain: list[Tensor]) -> None:
    """The adapter does something that the comparisons can tell."""
    apart = [
        float((one - other).nan_to_num().abs().max() / other.nan_to_num().abs().max())
        for one, other in zip(got, plain, strict=True)
        if other.numel() and other.nan_to_num().any()
    ]
    most = max(apart, default=0.0)
    assert most > 10 * TOLERANCE, f"the adapter changes the outputs by {most} only"


def _place(name: str) -> str:
    """The adapted module that a trained parameter belongs to."""
    name = name.removeprefix("base_model.model.")
    return re.split(r"\.(?:adapters|xora_adapter)\.", name)[0]


def _general(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def grouped(named: dict[str, str]) -> dict[str, str]:
    """Names without the numbers of layers."""
    return {_general(name): said for name, said in named.items()}


def counted(plan: Any) -> dict[str, int]:
    """How many modules there are of each name without numbers."""
    names = [_general(name) for name in plan]
    return {name: names.count(name) for name in names}


def _without_flags(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: tensor for n, tensor in tensors.items() if not n.startswith("requires_grad")}
