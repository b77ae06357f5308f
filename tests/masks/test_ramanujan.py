"""generate_ramanujan_mask: a plain array whose certificate holds in exact arithmetic."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from hypothesis import given, settings

import expandermask as xm
from expandermask.errors import InfeasibleShapeError, InvalidInputError, TooLargeError
from tests.oracles import graphs as oracle
from tests.oracles import spectra
from tests.strategies import feasible_shapes, seeds, shapes


@settings(max_examples=150)
@given(shapes(10, least_degree=2), seeds)
def test_masks_are_ramanujan_in_exact_arithmetic(shape, seed):
    n1, n2, d1 = shape
    mask = xm.generate_ramanujan_mask(n1, n2, d1, rng=seed)
    assert mask.shape == (n1, n2)
    assert mask.dtype == np.uint8
    assert mask.flags.c_contiguous
    assert mask.flags.writeable
    assert set(mask.ravel().tolist()) <= {0, 1}
    assert mask.sum(axis=1).tolist() == [d1] * n1
    assert mask.sum(axis=0).tolist() == [n1 * d1 // n2] * n2
    short = mask if n2 <= n1 else mask.T
    gram = oracle.gram(short.tolist())
    assert spectra.ramanujan_counts(gram, d1, n1 * d1 // n2)[0] == 0
    assert oracle.components(mask.tolist()) == 1
    assert np.array_equal(mask, xm.generate_ramanujan_mask(n1, n2, d1, rng=seed))
    assert np.array_equal(mask, xm.ramanujan_graph(n1, n2, d1, rng=seed).mask())


@pytest.mark.parametrize(
    "shape",
    [(768, 8, 2), (8, 768, 192), (1024, 64, 2), (64, 1024, 32), (4096, 64, 2), (512, 512, 3)],
)
def test_lora_shapes(shape):
    mask = xm.generate_ramanujan_mask(*shape, rng=0)
    proof = xm.certify(mask)
    assert proof.verdict == "PROVED"
    value = np.linalg.svd(mask.astype(float), compute_uv=False)[1]
    assert value <= proof.bound


def test_the_transpose_problem():
    """(8, 768, 192) is (768, 8, 2) turned: the first try of both is one graph."""
    tall = xm.generate_ramanujan_mask(768, 8, 2, rng=5)
    assert np.array_equal(tall.T, xm.generate_ramanujan_mask(8, 768, 192, rng=5))


def test_without_a_seed_masks_differ():
    first, second = (xm.generate_ramanujan_mask(64, 16, 4) for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2.0, 2, 2), "n1 must be an integer"),
        ((2, "2", 2), "n2 must be an integer"),
        ((2, 2, True), "d1 must be an integer"),
        ((2, 2, None), "d1 must be an integer"),
        ((-4, 2, 2), "n1 must be at least 1"),
        ((4, 0, 2), "n2 must be at least 1"),
        ((4, 4, -2), "d1 must be at least 1"),
        ((4, 4, 5), "exceeds n2 = 4"),
        ((10, 7, 2), "not divisible by n2 = 7"),
        ((6, 6, 1), "union of stars"),
        ((3, 6, 2), "union of stars"),
    ],
)
def test_bad_shapes(arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        xm.generate_ramanujan_mask(*arguments, rng=0)


@pytest.mark.parametrize("rng", [True, -1, 2**64, 0.5, "0"])
def test_bad_rng(rng):
    with pytest.raises(InvalidInputError, match="rng"):
        xm.generate_ramanujan_mask(12, 6, 3, rng=rng)


@pytest.mark.parametrize("method", ["best", "", None])
def test_unknown_methods(method):
    with pytest.raises(InvalidInputError, match="method"):
        xm.generate_ramanujan_mask(12, 6, 3, method=method)


def test_masks_larger_than_memory(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(TooLargeError, match=r"100000 x 50000 uint8 mask needs about 4\.7 GiB"):
        xm.generate_ramanujan_mask(100_000, 50_000, 3, rng=0)


def test_the_shapes_an_error_names_do_work():
    """Every infeasible shape up to 9 x 9: what the message offers can be generated."""
    good = set(feasible_shapes(81, least_degree=2))
    wrong, offered = [], 0
    for n1, n2, d1 in np.ndindex(9, 9, 11):
        arguments = {"n1": n1 + 1, "n2": n2 + 1, "d1": d1 + 1}
        try:
            xm.generate_ramanujan_mask(**arguments, rng=0)
        except InfeasibleShapeError as error:
            for change in offers(str(error)):
                mended, offered = {**arguments, **change}, offered + 1
                if (mended["n1"], mended["n2"], mended["d1"]) not in good:
                    wrong.append((tuple(arguments.values()), change))
    assert wrong == []
    assert offered > 500


def offers(message: str) -> list[dict[str, int]]:
    """The changes a message offers, as in "d1 = 2 or 4; n1 = 10"."""
    if "nothing near works" in message:
        return []
    pairs = [option.split("=") for option in message.split("that work:")[1].split(";")]
    return [{name.strip(): int(v)} for name, values in pairs for v in values.split("or")]
