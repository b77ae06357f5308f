"""Names of 0.1.0 that have moved: the old ones give the new ones, and say so."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

from expandermask._moved import MOVED
from expandermask.adapters import AdapterConfig, attach
from tests.without_compiler import ROOT

PAGE = (ROOT / "docs" / "from_0_1.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## Names")[2].partition("\n## ")[0]


def rows() -> list[tuple[str, str, str]]:
    """Old module, name and new module of each row of the page."""
    found = []
    for line in TABLE.splitlines():
        if not line.startswith("| `expandermask"):
            continue
        old, new = line.strip("| ").split(" | ")
        first, *others = re.findall("`([^`]+)`", old)
        module, _, name = first.rpartition(".")
        found += [(module, each, new.strip("`")) for each in (name, *others)]
    return found


@pytest.mark.parametrize(("module", "name", "place"), rows())
def test_old_names_give_the_new_ones(module: str, name: str, place: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{place}\.{name} now") as caught:
        found = getattr(import_module(module), name)
    assert found is getattr(import_module(place), name)
    assert caught[0].filename == __file__


def test_the_page_has_every_name_that_moved() -> None:
    moved = {(module, name) for module, names in MOVED.items() for name in names}
    moved.add(("expandermask.masks.targets", "is_packed_linear"))
    assert {row[:2] for row in rows()} == moved


def test_statements_of_0_1_0_still_import() -> None:
    code = (
        "from expandermask.adapters.peft.tuner import XoraModel\n"
        "from expandermask.adapters.layers.backend import set_backend\n"
        "import expandermask.adapters.peft.config as c\n"
        "print(XoraModel.__module__, set_backend.__name__, c.XoraConfig.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.stdout == "expandermask.peft._tuner set_backend XoraConfig\n", done.stderr


def test_what_never_was_there_is_not() -> None:
    with pytest.raises(ImportError):
        import_module("expandermask.adapters.nothing")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = import_module("expandermask.adapters.norms").nothing
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = import_module("expandermask.masks.targets").nothing


def test_old_names_of_the_values() -> None:
    model = nn.Sequential(nn.Linear(32, 32))
    attach(model, AdapterConfig(r=8, target_modules=["0"]), rng=0)
    adapter = model[0].adapter("default")
    with pytest.warns(DeprecationWarning, match="lora_A"):
        assert torch.equal(adapter.values_a, adapter.lora_A)
    with pytest.warns(DeprecationWarning, match="lora_B"):
        assert torch.equal(adapter.values_b, adapter.lora_B)
