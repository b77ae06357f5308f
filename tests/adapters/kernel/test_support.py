"""When the kernel is used, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from expandermask.adapters.layers import kernel
from expandermask.adapters.layers.kernel import check_index, launch, masked_update, supports
from expandermask.errors import InvalidInputError
from tests.adapters.kernel.cases import make

runs = pytest.mark.skipif(not kernel.available(), reason="the kernel does not run here")
ROOT = Path(__file__).parents[3]


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


CASE = (
    "from expandermask.adapters.layers import kernel\n"
    "from tests.adapters.kernel.cases import make\n"
    "case = make(2048, 384, 384, 8)\n"
    "print(kernel.available(), case.supported())\n"
)


@runs
def test_it_is_used_where_it_runs() -> None:
    assert run(CASE, NUMBA_DISABLE_JIT="0") == "True True"


@pytest.mark.parametrize(
    "environment", [{"NUMBA_DISABLE_JIT": "1"}, {"ATEN_CPU_CAPABILITY": "default"}]
)
def test_it_is_not_used_without_a_compiler_or_the_instructions(environment: dict[str, str]) -> None:
    assert run(CASE, **environment) == "False False"


def test_importing_the_adapters_compiles_nothing() -> None:
    code = (
        "import expandermask.adapters, expandermask.adapters.layers.kernel, sys\n"
        "print([m for m in sys.modules if m.startswith('expandermask.adapters.layers.kernel._b')])"
    )
    assert run(code) == "[]"


@runs
def test_a_compiler_that_fails_is_warned_of_once_and_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> None:
        raise ImportError("no LLVM")

    monkeypatch.setattr(launch, "compiled", broken)
    monkeypatch.setattr(launch, "_FAILURES", [])
    case = make(2048, 384, 384, 8)
    with pytest.warns(RuntimeWarning, match="without the CPU kernel.*no LLVM"):
        assert not case.supported()
    assert not case.supported()
    assert not kernel.available()


@runs
def test_an_installation_nobody_may_write_to_compiles_without_a_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numba
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.cfunc("void(int64)", cache=True)(lambda job: None)
    assert launch.compiled.__wrapped__("forward").address


@runs
def test_what_was_compiled_is_found_again(tmp_path: Path) -> None:
    code = (
        "from expandermask.adapters.layers.kernel import launch\n"
        "print(launch.compiled('forward').cache_hits)"
    )
    for hits in ("0", "1"):
        assert run(code, NUMBA_CACHE_DIR=str(tmp_path)) == hits


@runs
def test_what_the_kernel_takes() -> None:
    y, x, *values = make(2048, 384, 384, 8).leaves
    *index, _, _ = make(2048, 384, 384, 8).rest

    def takes(y: torch.Tensor, x: torch.Tensor, *values: torch.Tensor) -> bool:
        return supports(x, *values, *index, y=y)

    assert takes(y, x, *values)
    assert takes(y.bfloat16(), x.bfloat16(), *values)
    assert not takes(y.half(), x.half(), *values)
    assert not takes(y.double(), x.double(), *values)
    assert not takes(y.bfloat16(), x, *values)
    assert not takes(y, x, *(v.double() for v in values))
    assert not takes(y.to("meta"), x.to("meta"), *values)
    assert not takes(y, x[None], *values)
    assert not takes(y[:2], x[:2], *values)
    assert supports(x, *values, *index)
    assert not supports(x.half(), *values, *index)
    assert not supports(
        x, *values, index[0][0], index[1]
    )  # a column kept whole is no regular index

    class Subclass(torch.Tensor):
        """Such as a DTensor."""

    assert not takes(y, x.as_subclass(Subclass), *values)


@runs
def test_what_does_not_fit_is_refused() -> None:
    case = make(32, 24, 40, 8)
    y, x, values_a, values_b = (leaf.detach() for leaf in case.leaves)
    with pytest.raises(InvalidInputError, match="do not fit together"):
        masked_update(y, x[:5], values_a, values_b, *case.rest)
    with pytest.raises(InvalidInputError, match="do not fit together"):
        masked_update(y, x, values_a[:5], values_b, *case.rest)
    with pytest.raises(InvalidInputError, match="float16"):
        masked_update(y.half(), x.half(), values_a, values_b, *case.rest)
    with pytest.raises(InvalidInputError, match="int64"):
        masked_update(y, x, values_a, values_b, case.rest[0].long(), *case.rest[1:])


def test_indices_are_checked() -> None:
    good = torch.tensor([[0, 1, 7], [3, 0, 2]], dtype=torch.uint8)
    check_index(good, 8)
    with pytest.raises(InvalidInputError, match=r"index\[0, 2\] is 7; .* r - 1 = 6"):
        check_index(good, 7)
    with pytest.raises(InvalidInputError, match=r"index\[1, 1\] is -1"):
        check_index(torch.tensor([[0, 1], [2, -1]], dtype=torch.int16), 8)
    with pytest.raises(InvalidInputError, match=r"index\[:, 1\] names rank 5 twice"):
        check_index(torch.tensor([[1, 5], [2, 3], [4, 5]], dtype=torch.int32), 8)
