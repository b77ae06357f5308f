"""Adapters on every kind of model in transformers; see docs/reference/architectures.md."""

from __future__ import annotations

import pytest

from tests.architectures.cases import FAST, REASONS
from tests.architectures.table import cells, committed

pytestmark = pytest.mark.filterwarnings("ignore")
"""transformers, PEFT and torch warn of much that is small models' own."""


@pytest.mark.parametrize("model_type", FAST)
def test_an_adapter_goes_through_everything_on_a_few_types(model_type: str) -> None:
    assert cells(model_type) == committed()[model_type]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(committed().keys() - set(FAST)))
def test_an_adapter_goes_through_everything(model_type: str) -> None:
    assert cells(model_type) == committed()[model_type]


def test_the_table_is_long_and_each_gap_has_a_reason() -> None:
    rows = committed()
    assert {name for name, row in rows.items() if row[4]} == set(REASONS)
    assert {row[5].split(":")[0] for row in rows.values()} == {"trained", "refused"}
    assert len(rows) >= 300
    assert sum(row[5] == "trained" for row in rows.values()) >= 285
