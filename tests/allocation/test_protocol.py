"""What policies may ask of each other: names without an underscore, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import expandermask.allocation
from expandermask.allocation import AdaLoRA, ROLoRA, SoRA
from expandermask.allocation.terms import Terms
from expandermask.errors import AdapterError, FileFormatError
from tests.allocation.models import adapters, net

FILES = sorted(Path(expandermask.allocation.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_underscored_attribute_of_another_object_is_used(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            dunder = node.attr.startswith("__")
            owner = node.value
            own = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
            own = own or (isinstance(owner, ast.Call) and ast.unparse(owner) == "super()")
            assert dunder or own, f"line {node.lineno}: {ast.unparse(node)}"
            assert node.attr not in ("__dict__",), f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "policy", [AdaLoRA(target_rank=2, total_steps=9), SoRA(strength=1.0)], ids=["AdaLoRA", "SoRA"]
)
def test_the_shapes_told_beforehand_are_those_of_the_state(policy: AdaLoRA | SoRA) -> None:
    model = net(4, "elements")
    terms = Terms(adapters(model))
    values = sum(tensor.numel() for tensor in terms.values())
    told = policy.state_shapes(values, len(terms))
    policy.attach(model)
    assert told == {name: tuple(t.shape) for name, t in policy.state_dict().items()}
    policy.check_state(policy.state_dict())
    with pytest.raises(FileFormatError, match="'other' is missing, or not of its state"):
        policy.check_state(policy.state_dict(), {**told, "other": None})


def test_a_policy_takes_over_what_another_has_made() -> None:
    model = net(4)
    first, second = SoRA(strength=1.0), SoRA(strength=1.0)
    first.attach(model)
    gates = {name: own.rank_gate for name, own in adapters(model).items()}
    with pytest.raises(AdapterError, match="has a gate already"):
        second.attach(model)
    second.take_over(model)
    assert all(own.rank_gate is gates[name] for name, own in second.adapters.items())
    assert second.adapters == adapters(model)


def test_adapters_are_asked_for_once_there_is_one() -> None:
    with pytest.raises(AdapterError, match=r"call ROLoRA.attach\(model\) first"):
        _ = ROLoRA(target_rank=2, total_steps=9).adapters
