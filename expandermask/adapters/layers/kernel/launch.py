"""Compiling the kernel at first use, and running it on the threads that torch already has.

numba's own thread pools would fight torch's for the cores, and abort in forked workers. The bodies
are C callbacks instead, and are handed to the OpenMP runtime that torch itself is linked to.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from expandermask.compiling import compile_kept

_MACHINE_CAN = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2") and os.environ.get(
    "NUMBA_DISABLE_JIT", "0"
) in ("", "0")
"""Where the kernel was measured to win; a constant, so that torch.compile can trace it."""


def available() -> bool:
    """Whether the kernel runs here: an x86-64 CPU with AVX2 or AVX-512, and numba compiling.

    Asking compiles nothing.
    """
    return _MACHINE_CAN and not _FAILURES


def usable() -> bool:
    """Whether the kernel has compiled, which is tried at the first call: about five seconds.

    A numba that cannot is warned of once; everything then goes on without the kernel.
    """
    if not available():
        return False
    try:
        for name in ("forward", "backward"):
            compiled(name)
    except Exception as error:  # of whatever kind numba and LLVM raise
        note_failure(error)
        return False
    return True


def note_failure(error: Exception) -> None:
    """Go on without the kernel from now on, and say so."""
    _FAILURES.append(repr(error))
    warnings.warn(f"going on without the CPU kernel: {error!r}", RuntimeWarning, stacklevel=3)


_FAILURES: list[str] = []


def run(name: str, words: dict[str, int]) -> None:
    """Run the body ``name`` on a job, on as many of torch's threads as it has chunks.

    The caller keeps alive what the addresses in ``words`` point to; words left out are 0.
    """
    from expandermask.adapters.layers.kernel._bodies import at

    body = compiled(name)
    job = (ctypes.c_int64 * len(at))(*[words.get(word, 0) for word in at._fields])
    threads = min(torch.get_num_threads(), words["chunks"])
    if threads > 1 and (parallel := _parallel()) is not None:
        parallel(body.address, ctypes.addressof(job), threads, 0)
    else:
        body.ctypes(ctypes.addressof(job))


@cache
def compiled(name: str) -> Any:
    """The body ``name`` as a numba C callback: seconds once, then from numba's cache."""
    from numba import cfunc

    from expandermask.adapters.layers.kernel import _bodies

    return compile_kept(partial(cfunc, "void(int64)"), getattr(_bodies, name), error_model="numpy")


@cache
def _parallel() -> Callable[..., None] | None:
    """GOMP_parallel of the OpenMP runtime torch is linked to, or None where it has none."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # A symbol of a library is looked up in those it is linked to as well.
        function = ctypes.CDLL(os.fspath(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function
