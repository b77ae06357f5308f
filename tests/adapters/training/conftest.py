"""Two ranks, started once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.training.ranks import Ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    both = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield both
    both.close()
