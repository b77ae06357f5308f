"""What every test and doctest shares, those of the package and the docs included."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _close_pictures() -> Iterator[None]:
    """Close what a test drew: pyplot keeps every figure, and warns of many."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")
