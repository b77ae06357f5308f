"""The pytest plugin of `peft_tests.py`: XoraConfig in LoraConfig's place, and what each test did.

With ``--xora``, ``peft.LoraConfig`` is `XoraConfig` before any of PEFT's tests is imported, and
`XoraConfig` takes LoraConfig's arguments. Without it the tests run as PEFT wrote them. Tests that
do not use LoraConfig are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import _peft_tests_names as names
import peft
import pytest
from _peft_tests_hub import TEXT

from expandermask.errors import InvalidInputError
from expandermask.masks.plan import MaskPlan
from expandermask.masks.targets import Shape
from expandermask.peft import XoraConfig

LORA = peft.LoraConfig
DEFAULTS = vars(LORA())
FIELDS = {field.name for field in dataclasses.fields(XoraConfig)}
LACKING = (
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "eva_config",
    "init_lora_weights",
    "kasa_config",
    "layer_replication",
    "loftq_config",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
    "combination_type",
    "_register_custom_module",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "MultiheadAttention",
)
"""What XoRA refuses. An error that names one of them says that the test needs it."""

OF_LORA = ("test_fixed_rank_lora_config", "test_converted_lora_to_lora_works_and_warns")
"""Tests of converting to LoRA: an adapter of LoKr, and an adapter of LoRA itself."""

ranks: set[tuple[int, int]] = set()
"""The ranks that the running test asked for, each with the one that was used."""


# -- LoraConfig's arguments ------------------------------------------------------------------------


def translated(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments without those that ask for nothing, and LoraConfig's defaults for the rest."""
    asked = {"r": DEFAULTS["r"], "lora_alpha": DEFAULTS["lora_alpha"], "target_modules": None}
    asked |= {"scaling": "paper"}
    for name, value in arguments.items():
        if name in FIELDS or name not in DEFAULTS or value != DEFAULTS[name]:
            asked[name] = value
    asked.setdefault("infeasible", "nearest")
    asked.pop("fan_in_fan_out", None)  # XoRA sees for itself how a weight is laid out
    return asked


def take_arguments() -> None:
    """Let `XoraConfig` take LoraConfig's arguments, and remember the rank."""
    plain = XoraConfig.__init__

    @functools.wraps(plain)
    def init(self: XoraConfig, *args: Any, **arguments: Any) -> None:
        asked = translated(arguments)
        self.asked_rank = asked["r"]
        if asked["r"] == 1:
            asked["r"] = 2  # the least rank of a Ramanujan graph
        plain(self, *args, **asked)

    XoraConfig.__init__ = init


def take_type() -> None:
    """Let "LORA" as the type of a config mean XORA."""
    plain = XoraConfig.__setattr__

    def set_attribute(self: XoraConfig, name: str, value: object) -> None:
        plain(self, name, "XORA" if (name, value) == ("peft_type", "LORA") else value)

    XoraConfig.__setattr__ = set_attribute


def note_ranks() -> None:
    """Note the ranks of every plan."""
    plain = XoraConfig.make_plan

    def make_plan(self: XoraConfig, shapes: dict[str, Shape], seed: int) -> MaskPlan:
        plan = plain(self, shapes, seed)
        for name, pair in plan.items():
            asked = self.ranks.asked(name)
            asked = self.asked_rank if asked == self.r else asked
            ranks.add((asked, len(pair.used_ranks)))
        return plan

    XoraConfig.make_plan = make_plan


# -- pytest's hooks --------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that `peft_tests.py` gives."""
    parser.addoption("--xora", action="store_true", help="XoraConfig in LoraConfig's place")
    parser.addoption("--records", help="file that gets a line of JSON for each test")


def pytest_configure(config: pytest.Config) -> None:
    """Replace LoraConfig, and the hub, before the tests are imported."""
    if config.getoption("--xora"):
        peft.LoraConfig = XoraConfig
        take_arguments()
        take_type()
        note_ranks()
    utilities = import_module("tests.testing_utils")
    utilities.load_dataset_english_quotes = quotes
    utilities.hub_online_once = nullcontext
    if config.getoption("--xora"):
        custom_models = import_module("tests.test_custom_models")
        names.translate(custom_models, import_module("tests.test_low_level_api"))


def quotes() -> Any:
    """The data set of the tests that train."""
    datasets = import_module("datasets")
    return datasets.DatasetDict({"train": datasets.Dataset.from_dict({"quote": TEXT})})


def pytest_make_parametrize_id(val: object) -> str | None:
    """Give a test the same name with both configs."""
    return LORA.__name__ if val is XoraConfig else None


def kinds_of(value: object) -> set[bool]:
    """Of the configs in a test's parameter: True for LoraConfig, False for any other."""
    if isinstance(value, list | tuple):
        return {kind for item in value for kind in kinds_of(item)}
    kind = value if inspect.isclass(value) else type(value)
    return {kind is peft.LoraConfig} if issubclass(kind, peft.PeftConfig) else set()


@functools.cache
def names_lora(function: Any) -> bool:
    """Whether the source of a test or a fixture has LoraConfig in it."""
    return re.search(r"\bLoraConfig\b", inspect.getsource(function)) is not None


def uses_lora(item: Any) -> bool:
    """Whether a test is about LoraConfig: by its parameters, else by its source and fixtures'."""
    if item.name in OF_LORA:
        return False
    callspec = getattr(item, "callspec", None)
    kinds = kinds_of(list(callspec.params.values())) if callspec else set()
    if kinds:
        return True in kinds
    found = item._fixtureinfo.name2fixturedefs
    fixtures = [found[name][-1].func for name in item.fixturenames if name in found]
    ours = [f for f in fixtures if f.__module__ == item.function.__module__]
    return any(names_lora(function) for function in [item.function, *ours])


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out the tests of other methods."""
    others = [item for item in items if not uses_lora(item)]
    items[:] = [item for item in items if uses_lora(item)]
    config.hook.pytest_deselected(items=others)


def lacks(error: BaseException | None) -> str | None:
    """Which of the things that XoRA refuses an error names, or one that led to it."""
    while error is not None:
        if isinstance(error, InvalidInputError | TypeError):
            for name in LACKING:
                if re.search(rf"\b{name}\b", str(error)):
                    return name
        error = error.__cause__ or error.__context__
    return None


def outcome(report: Any, error: BaseException | None) -> tuple[str, str]:
    """What a test did, and why: passed, failed, lacking or not run."""
    if report.outcome == "passed":
        return "passed", ""
    missing = lacks(error)
    if missing is not None:
        return "lacking", missing
    text = re.sub(r"0x[0-9a-f]+|(?<!\w)/\S+|\s+", " ", str(error)).strip()
    text = text.partition(" + where ")[0]  # pytest prints tensors there
    if report.outcome == "skipped":
        return "not run", text
    return "failed", f"{type(error).__name__}: {text}"[:160].strip()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Write what a test did, once: after its body, or after a setup that did not pass."""
    report = yield
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        kind, reason = outcome(report, call.excinfo.value if call.excinfo else None)
        line = {
            "id": item.nodeid.removeprefix("tests/"),
            "outcome": kind,
            "reason": reason,
            "ranks": sorted(ranks),
            "trace": report.longreprtext[-4000:],
        }
        ranks.clear()
        with open(item.config.getoption("--records"), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return report
