"""AdapterConfig: its scale, its JSON form, and every value it refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from expandermask.adapters import AdapterConfig
from expandermask.errors import FileFormatError, InvalidInputError

REFUSED = [
    ({"r": True}, "r must be an integer"),
    ({"r": 8.0}, "r must be an integer"),
    ({"r": 0}, "r must be at least 2"),
    ({"r": -4}, "r must be at least 2"),
    ({"left_degree": 1}, "left_degree must be at least 2"),
    ({"left_degree": "2"}, "left_degree must be an integer"),
    ({"r": 4, "left_degree": 5}, "left_degree must be at most r = 4, got 5"),
    ({"lora_alpha": 0}, "lora_alpha must be positive"),
    ({"lora_alpha": math.nan}, "lora_alpha must be positive and finite"),
    ({"lora_alpha": 10**400}, "lora_alpha must be below 1e308"),
    ({"lora_alpha": True}, "lora_alpha must be a real number"),
    ({"lora_dropout": 1.0}, r"lora_dropout must lie in \[0, 1\)"),
    ({"lora_dropout": -0.1}, r"lora_dropout must lie in \[0, 1\)"),
    ({"lora_dropout": None}, "lora_dropout must be a real number"),
    ({"scaling": "rslora"}, r"scaling must be one of \('matched', 'paper'\)"),
    ({"target_modules": []}, "target_modules is empty"),
    ({"target_modules": ["query", 3]}, "target_modules must hold non-empty strings"),
    ({"target_modules": 7}, "target_modules must be a list"),
    ({"modules_to_save": "classifier"}, "modules_to_save must be a list"),
    ({"modules_to_save": [""]}, "modules_to_save must hold non-empty strings"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_refuses_what_makes_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        AdapterConfig(**fields)


def test_scale_by_both_rules() -> None:
    assert AdapterConfig(r=32, left_degree=2, lora_alpha=16).scale == 2
    assert AdapterConfig(r=32, left_degree=2, lora_alpha=16, scaling="paper").scale == 0.5


def test_lists_become_tuples_so_a_config_cannot_change() -> None:
    config = AdapterConfig(target_modules=["query"], modules_to_save=["classifier"])
    assert (config.target_modules, config.modules_to_save) == (("query",), ("classifier",))
    assert hash(config) == hash(
        AdapterConfig(target_modules=("query",), modules_to_save=("classifier",))
    )


@pytest.mark.parametrize(
    "config",
    [
        AdapterConfig(),
        AdapterConfig(8, 4, 3, 0.5, ["a", "b"], "paper", ["head"]),
        AdapterConfig(exclude_modules=["a", "b"]),
        AdapterConfig(exclude_modules=r".*\.a"),
    ],
)
def test_json_round_trip(config: AdapterConfig) -> None:
    assert AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_files_from_before_there_were_exclusions_stay_as_they_were() -> None:
    fields = {
        "r": 64,
        "left_degree": 2,
        "lora_alpha": 16.0,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "scaling": "matched",
        "modules_to_save": [],
    }
    assert AdapterConfig().to_dict() == fields
    assert AdapterConfig.from_dict(fields) == AdapterConfig(exclude_modules=())


@pytest.mark.parametrize("bad", [None, 3, [""], [1]])
def test_exclusions_are_names_or_an_expression(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match="exclude_modules"):
        AdapterConfig(exclude_modules=bad)


@pytest.mark.parametrize(
    "change",
    [
        {"exclude_modules": None},
        {"exclude_modules": [1]},
        {"r": 1},
        {"r": "8"},
        {"extra": 1},
        {"scaling": "x"},
        {"lora_alpha": 1},
        {"r": True},
    ],
)
def test_a_bad_document_is_a_file_error(change: dict[str, Any]) -> None:
    with pytest.raises(FileFormatError):
        AdapterConfig.from_dict(AdapterConfig().to_dict() | change)


@pytest.mark.parametrize("data", [None, [], "r", {"r": 8}])
def test_a_foreign_document_is_a_file_error(data: object) -> None:
    with pytest.raises(FileFormatError):
        AdapterConfig.from_dict(data)
