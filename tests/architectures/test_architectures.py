"""Adapters on every kind of model in transformers; see docs/reference/architectures.md."""

from __future__ import annotations

import pytest

from tests.architectures.cases import FAST, REASONS, TYPES
from tests.architectures.table import cells, committed

pytestmark = pytest.mark.filterwarnings("ignore")
"""transformers, PEFT and torch warn of much that is small models' own."""


@pytest.mark.parametrize("model_type", FAST)
def test_an_adapter_goes_through_everything_on_a_few_types(model_type: str) -> None:
    assert cells(model_type) == committed()[model_type]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [name for name in TYPES if name not in FAST])
def test_an_adapter_goes_through_everything(model_type: str) -> None:
    assert cells(model_type) == committed()[model_type]


def test_the_table_has_a_row_for_each_type_and_a_reason_for_each_gap() -> None:
    rows = committed()
    assert sorted(rows) == sorted(TYPES)
    assert {name for name, row in rows.items() if row[4]} == set(REASONS)
    trained = [row for row in rows.values() if row[5].startswith("trained")]
    assert len(rows) >= 70
    assert len(trained) >= 60
