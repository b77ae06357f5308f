"""How many threads BLAS may use for dense work of a given size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import ThreadpoolController

_THREADED_SIZE = 96


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  # it brings a BLAS of its own, found only once it is loaded

    return ThreadpoolController()


_ONE_AT_A_TIME = threading.RLock()
"""The limit is the process's: threads that set it at once would put back what the other had set."""


@contextmanager
def one_blas_thread(n: int) -> Iterator[None]:
    """One BLAS thread for dense work of size n: more make small factorisations slower."""
    if n < _THREADED_SIZE:
        yield
    else:
        with _ONE_AT_A_TIME, _controller().limit(limits=1, user_api="blas"):
            yield
