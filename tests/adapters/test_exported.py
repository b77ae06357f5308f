"""Unmerged models traced and exported: one program for any number of rows, without this library.

A program is made of an example of 300 rows, for which the CPU kernel would be taken, or of one row,
for which the loops of a few tokens would be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.export import Dim
from transformers.pytorch_utils import Conv1D

from expandermask import MaskPlan, masks
from expandermask.adapters import AdapterConfig, XoraConfig, attach, merge, set_adapters
from tests.adapters import without_library
from tests.adapters.models import randomise

WIDTH = 128
FIXED = 300
ROWS = (1, 2, 15, 16, FIXED, 2000)
CONFIG = AdapterConfig(r=16, left_degree=2, target_modules=r"\d")
Build = Callable[[], nn.Module]
Mask = np.ndarray


def base() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 192), nn.GELU(), nn.Linear(192, 64))


def regular() -> nn.Module:
    model = base()
    attach(model, CONFIG, rng=0)
    return model


def with_masks(mask: Callable[[int], Mask]) -> nn.Module:
    model = base()
    each = {"0": (mask(WIDTH), mask(192)), "2": (mask(192), mask(64))}
    attach(model, MaskPlan.from_masks(each, rng=0))
    return model


def elements() -> nn.Module:
    return with_masks(lambda n: masks.bernoulli(n, 16, 0.3, rng=n))


def lines() -> nn.Module:
    return with_masks(lambda n: np.outer(np.arange(n) % 5 > 0, np.ones(16)).astype(np.uint8))


def two_adapters() -> nn.Module:
    model = regular()
    attach(model, AdapterConfig(r=8, left_degree=2, target_modules=["0"]), rng=1, name="second")
    set_adapters(model, ["default", "second"])
    return model


def conv1d() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(192, WIDTH), nn.GELU(), Conv1D(64, 192))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    attach(model, CONFIG, rng=0)
    return model


class Words(nn.Module):
    """A table looked up by the sizes of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WIDTH, 32, padding_idx=0)
        self.head = nn.Linear(32, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table((10 * x.abs()).long()))


def embedding() -> nn.Module:
    torch.manual_seed(0)
    model = Words()
    attach(model, AdapterConfig(r=16, left_degree=2, target_modules=["table", "head"]), rng=0)
    return model


def tuner() -> nn.Module:
    config = XoraConfig(r=16, left_degree=2, target_modules="all-linear", mask_seed=0)
    return get_peft_model(base(), config)


def dynamic(model: nn.Module) -> tuple[object, ...] | dict[str, object]:
    """The first dimension of the one input is free."""
    rows = {0: Dim("rows")}
    return {"args": (rows,)} if hasattr(model, "peft_config") else (rows,)


def write_exported(model: nn.Module, example: Tensor, folder: Path) -> None:
    fixed = torch.export.export(model, (example,))
    torch.export.save(fixed, folder / "fixed-export.pt2")
    for strict in (False, True):
        program = torch.export.export(
            model, (example,), dynamic_shapes=dynamic(model), strict=strict
        )
        torch.export.save(program, folder / f"any-export-{strict}.pt2")


def write_traced(model: nn.Module, example: Tensor, folder: Path) -> None:
    for rows in (1, FIXED):
        traced = torch.jit.trace(model, example[:rows], check_trace=False)
        traced.save(folder / f"any-of-{rows}.trace")


def write_onnx(model: nn.Module, example: Tensor, folder: Path) -> None:
    for rows in (1, FIXED):
        torch.onnx.export(
            model,
            (example[:rows],),
            folder / f"any-older-{rows}.onnx",
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "rows"}},
        )
    torch.onnx.export(
        model,
        (example,),
        folder / "any-newer.onnx",
        dynamo=True,
        dynamic_shapes=dynamic(model),
        external_data=False,
        verbose=False,
    )


def write_compiled(model: nn.Module, example: Tensor, folder: Path) -> None:
    program = torch.export.export(model, (example,), dynamic_shapes=dynamic(model))
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(folder / "compiled.pt2")
    )
    os.rename(package, folder / "any-compiled.aoti")


WAYS = (write_exported, write_traced, write_onnx)
KINDS = (regular, elements, lines, two_adapters, conv1d, embedding, tuner)


def trained(build: Build) -> nn.Module:
    """The model with updates that are not zero."""
    model = build().eval()
    randomise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5 if parameter.requires_grad else 1)
    return model


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "fixed" if rows == FIXED else str(rows): torch.randn(rows, WIDTH, generator=generator)
        for rows in ROWS
    }


def run_elsewhere(folder: Path, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of every program of the folder, computed by a process without expandermask."""
    np.savez(folder / "inputs.npz", **{name: x.numpy() for name, x in given.items()})
    command = [sys.executable, without_library.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert not done.returncode, done.stderr
    outputs = np.load(folder / "outputs.npz")
    return {name: torch.from_numpy(outputs[name]) for name in outputs.files}


def check(model: nn.Module, ways: tuple[Callable[..., None], ...], folder: Path) -> None:
    """Programs of ``model`` compute what it does, which is not what its base does."""
    given = inputs()
    with torch.no_grad():
        for way in ways:
            way(model, given["fixed"], folder)
        eager = {name: model(x) for name, x in given.items()}
        randomise(model, seed=2)
        assert all((model(x) - eager[name]).abs().max() > 0.1 for name, x in given.items())
    outputs = run_elsewhere(folder, given)
    assert outputs
    for program, output in outputs.items():
        expected = eager[program.partition("/")[2]]
        torch.testing.assert_close(
            output, expected, rtol=0, atol=1e-5, msg=lambda text, name=program: f"{name}: {text}"
        )


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_programs_compute_what_the_model_does(build: Build, tmp_path: Path) -> None:
    check(trained(build), WAYS, tmp_path)


def test_merged_models_are_exported_too(tmp_path: Path) -> None:
    model = trained(regular)
    merge(model)
    expected = model(inputs()["2000"])
    write_exported(model, inputs()["fixed"], tmp_path)
    found = run_elsewhere(tmp_path, inputs())["any-export-True.pt2/2000"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tracer", [torch.jit.script, torch.fx.symbolic_trace])
@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_tracers_that_cannot_follow_say_so(build: Build, tracer: Callable[..., object]) -> None:
    with pytest.raises((RuntimeError, ValueError, torch.fx.proxy.TraceError)):
        tracer(trained(build))


@pytest.mark.slow
@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_libraries_that_inductor_compiles(build: Build, tmp_path: Path) -> None:
    check(trained(build), (write_compiled,), tmp_path)
