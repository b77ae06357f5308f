"""Compiling kernels by numba: at the first call, and kept for other processes where that can be.

numba keeps what it compiles beside the source, else in the user's cache folder, or where
``NUMBA_CACHE_DIR`` says. Where none of these can be written it raises, and so does a disk that is
full. Here each process then compiles for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(**options: Any) -> Callable[[Any], Any]:
    """A decorator: `numba.njit` with these options, whose result is kept where it can be."""
    return lambda function: compile_kept(njit, function, **options)


def compile_kept(compiler: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Any:
    """``function`` by ``compiler(**options)``, a decorator of numba that takes ``cache``."""
    try:
        made = compiler(cache=True, **options)(function)
    except OSError:  # compiled at once, and there is no room for the file
        return compiler(**options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return compiler(**options)(function)
    if hasattr(made, "_cache"):  # nothing is compiled under NUMBA_DISABLE_JIT
        made._cache.save_overload = _where_there_is_room(made._cache)
    return made


def _where_there_is_room(cache: Any) -> Callable[..., None]:
    """``cache.save_overload``, which gives up for this process if the file cannot be written."""
    save = cache.save_overload

    def save_overload(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError:
            cache.disable()

    return save_overload
