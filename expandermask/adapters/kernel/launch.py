"""Compiling the kernel at first use, and running it on the threads that torch already has.

numba's own thread pools would fight torch's for the cores, and abort in forked workers. The bodies
are C callbacks instead, and are handed to the OpenMP runtime that torch itself is linked to.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from zlib import crc32

import torch

from expandermask.adapters.kernel import _job

_FOLDER = Path(__file__).parent
_LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib")


def run(name: str, words: dict[str, int]) -> None:
    """Run the body ``name`` on a job, on as many of torch's threads as there are chunks for.

    The caller keeps alive what the addresses in ``words`` point to; words left out are 0.
    """
    job = (ctypes.c_int64 * len(_job.NAMES))(*(words.get(word, 0) for word in _job.NAMES))
    body = compiled(name)
    threads = min(torch.get_num_threads(), words["chunks"])
    parallel = _parallel()
    if threads == 1 or parallel is None:
        body(ctypes.addressof(job))
    else:
        parallel(ctypes.cast(body, ctypes.c_void_p), ctypes.addressof(job), threads, 0)


@cache
def compiled(name: str) -> Callable[[int], None]:
    """The body ``name`` as a C function of a job's address: seconds once, then from numba's cache.

    numba looks at one source file to see whether what it cached is still right; the bodies come
    from several, so their checksum is made part of the key.
    """
    from numba import cfunc

    from expandermask.adapters.kernel import _bodies

    sources = sorted(_FOLDER.glob("_*.py"))
    fingerprint = crc32(b"".join(source.read_bytes() for source in sources))
    body = getattr(_bodies, f"{name}_body")(fingerprint)
    try:
        callback = cfunc("void(int64)", cache=True, error_model="numpy")(body)
    except RuntimeError:  # no folder numba may write its cache to
        callback = cfunc("void(int64)", error_model="numpy")(body)
    _KEPT.append(callback)
    function: Callable[[int], None] = callback.ctypes
    return function


_KEPT: list[object] = []


def float_bits(value: float) -> int:
    """A float32 as the lower half of a little-endian word."""
    return int.from_bytes(struct.pack("<f", value), "little")


@cache
def _parallel() -> Callable[..., None] | None:
    """GOMP_parallel of the OpenMP runtime torch is linked to, or None where it has none."""
    folder = Path(torch.__file__).parent / "lib"
    for name in _LIBRARIES:
        try:
            # A symbol of a library is looked up in those it is linked to as well.
            function = ctypes.CDLL(os.fspath(folder / name)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
        return function
    return None
