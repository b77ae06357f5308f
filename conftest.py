"""What every test and doctest shares, those of the package and the docs included."""

import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the seed of an order."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run all tests in random order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle the tests, in the same way in every worker."""
    seed = config.getoption("--shuffle")
    if seed is not None:
        random.Random(seed).shuffle(items)


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
