"""What every test and doctest shares, those of the package and the docs included."""

import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """Start the generators of the process anew, which the tests before have used or not."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _close_pictures() -> Iterator[None]:
    """Close what a test drew: pyplot keeps every figure, and warns of many."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")
