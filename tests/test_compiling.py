"""Kernels compile wherever they cannot be kept: import and results do not depend on a folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from numba import cfunc, njit
from numba.core import caching

from expandermask.compiling import compile_kept, kernel

only_compiled = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="there is nothing to keep"
)
NOWHERE = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
import expandermask as xm
print(xm.generate_ramanujan_mask(24, 8, 2, rng=0).sum())
"""


def add(a: int, b: int) -> int:
    return a + b


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@only_compiled
def test_the_library_works_where_nothing_can_be_written() -> None:
    done = subprocess.run([sys.executable, "-c", NOWHERE], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("48\n", "")


@only_compiled
def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(add)
    assert kernel()(add)(2, 3) == 5


@only_compiled
@pytest.mark.parametrize("compiler", [njit, partial(njit, "int64(int64, int64)")])
def test_a_full_disk_costs_the_file_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: object
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_index", no_room)
    made = compile_kept(compiler, add)
    assert made(2, 3) == 5
    assert made(2.5, 3) in (5, 5.5)  # of the signature that it was given
    assert not list(tmp_path.glob("*/*.nbc"))


@only_compiled
def test_a_full_disk_costs_a_callback_its_file_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_index", no_room)
    made = compile_kept(partial(cfunc, "int64(int64, int64)"), add)
    assert made.ctypes(2, 3) == 5


@only_compiled
def test_the_user_says_where_results_are_kept(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    code = "import expandermask as xm; xm.generate_ramanujan_mask(24, 8, 2, rng=0)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.glob("graphs_*/*.nbc"))
