"""The stand-alone checker takes every real certificate, alone and in Python."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import BiregularGraph, certify
from expandermask.certificates import recheck as module
from expandermask.certificates.recheck import is_definite, proves, recheck
from expandermask.graphs import (
    complete_bipartite,
    heawood,
    hypercube,
    quasi_cyclic,
    random_biregular,
)
from expandermask.masks import save_mask
from tests import cases
from tests.certificates.forgeries import (
    DATA,
    ENDS,
    FILE,
    ODD,
    TEXT,
    TIE,
    basis,
    check,
    counted,
    forged,
    sealed,
)
from tests.families import FAMILIES
from tests.strategies import seeds, shapes

# -- real certificates ------------------------------------------------------------------------


@pytest.mark.parametrize("definition", ["one-sided", "two-sided"])
@pytest.mark.parametrize("case", cases.KNOWN + cases.TIES, ids=repr)
def test_known_graphs_are_confirmed(case, definition):
    graph = BiregularGraph.from_mask(case.mask)
    assert check(certify(graph, definition=definition), graph).outcome == "CONFIRMED"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_confirmed_or_beyond(name):
    graph = FAMILIES[name](1)
    found = check(certify(graph), graph)
    assert found.outcome == ("CONFIRMED" if min(graph.n1, graph.n2) <= 512 else "BEYOND")


@settings(max_examples=100)
@given(
    shapes(12, least_degree=2),
    seeds,
    st.sampled_from([("one-sided", None), ("two-sided", None), ("within", 0.0), ("within", 0.25)]),
)
def test_random_graphs_are_confirmed(shape, seed, question):
    definition, eps = question
    graph = random_biregular(*shape, rng=seed)
    proof = certify(graph, definition=definition, eps=eps)
    found = check(proof, graph)
    assert found.outcome == ("BEYOND" if proof.verdict == "UNDECIDED" else "CONFIRMED")


def test_regular_and_within():
    assert check(certify(heawood(), definition="regular"), heawood()).outcome == "CONFIRMED"
    cube = hypercube(7)
    for eps in (0.1, 0.2, 5.0):
        assert check(certify(cube, definition="within", eps=eps), cube).outcome == "CONFIRMED"


def test_what_is_not_derived_again_is_said():
    shown = ("limit", "three_moment", "lattice", "schur", "walks", "reason")
    assert check(certify(heawood()), heawood()).unchecked == shown
    graph = random_biregular(600, 600, 4, rng=0)
    assert check(certify(graph), graph).unchecked[-4:] == ("sigma2", "sigma_min", "c", "c_least")


def test_ties_at_both_ends_are_confirmed():
    proof = certify(ENDS, definition="two-sided")
    assert (proof.evidence["ties"], proof.evidence["ties_below"]) == (6, 3)
    assert check(proof, ENDS).outcome == "CONFIRMED"


def test_blocks_are_beyond():
    graph = quasi_cyclic(1200, 600, 3, r=60, rng=0)
    found = check(certify(graph), graph)
    assert certify(graph).method == "blocks"
    assert (found.outcome, "r" in found.unchecked) == ("BEYOND", True)
    assert found.reason == "PROVED, over 512 vertices"


def test_a_proof_beyond_its_size_is_not_confirmed():
    graph = random_biregular(600, 600, 4, rng=0)
    found = check(certify(graph), graph)
    assert (found.outcome, "sigma2" in found.unchecked) == ("BEYOND", True)
    assert forged(graph, {"digest": "0" * 64}) == "REJECTED"
    pair = BiregularGraph.from_mask(cases.two_copies(random_biregular(300, 300, 4, rng=0).mask()))
    found = check(certify(pair), pair)
    assert (found.outcome, "sigma2" in found.unchecked) == ("CONFIRMED", True)


def test_where_beyond_begins():
    graph = random_biregular(24, 12, 3, rng=5)
    judge = import_module("expandermask.certificates.judge")
    assert module.MOST_VERTICES == judge.EXACT_LIMIT == 512
    for most, outcome in ((12, "CONFIRMED"), (11, "BEYOND")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MOST_VERTICES", most)
            assert check(certify(graph), graph).outcome == outcome


@pytest.mark.slow
def test_the_largest_proofs():
    graph = random_biregular(1024, 512, 3, rng=1)
    for definition in ("one-sided", "two-sided"):
        assert check(certify(graph, definition=definition), graph).outcome == "CONFIRMED"


def test_undecided_is_never_confirmed():
    data = json.loads(certify(heawood()).to_json())
    data |= {"verdict": "UNDECIDED", "method": "none"}
    assert check(sealed(data), heawood()).outcome == "BEYOND"


# -- the text of a certificate ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DATA))
def test_any_field_altered_or_missing_under_the_old_seal(name):
    for value in (None, True, 0, 1, -1.5, "x", [], {}, [1.0, 9.0]):
        if value != DATA[name] or type(value) is not type(DATA[name]):
            assert check(json.dumps({**DATA, name: value}), ODD).outcome == "REJECTED"
    rest = {k: v for k, v in DATA.items() if k != name}
    if name != "seal":
        assert check(sealed(rest), ODD).outcome == "REJECTED"
    assert check(json.dumps(rest), ODD).outcome == "REJECTED"
    entry = json.dumps(DATA[name])
    assert "repeated" in check(f'{{"{name}": {entry}, {TEXT[1:]}', ODD).reason


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", "{}", "\x00", b"\xff", b"", "[" * 10**5, '{"a":NaN}']
)
def test_not_a_certificate(text):
    assert check(text, ODD).outcome == "REJECTED"


def test_pairs_in_a_list_are_no_object():
    """They could repeat a name, and be read either way."""
    assert check(json.dumps([*DATA.items()]), ODD).outcome == "REJECTED"


def test_numbers_that_are_not_finite_or_too_long():
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000):
        assert check(TEXT.replace('"eps": 0.0', f'"eps": {number}'), ODD).outcome == "REJECTED"


def test_a_certificate_that_is_too_long(monkeypatch):
    for most, outcome in ((len(TEXT), "CONFIRMED"), (len(TEXT) - 1, "REJECTED")):
        monkeypatch.setattr(module, "MOST_BYTES", most)
        assert check(TEXT, ODD).outcome == outcome


def test_tie_vectors_too_long_for_the_elimination():
    """Scaled tie vectors span the same space, and are taken as long as 1024 bits hold a pivot."""
    for bits, outcome in ((100, "CONFIRMED"), (200, "REJECTED")):
        assert counted(TIE, [[x << bits for x in v] for v in basis(TIE)], bits=900) == outcome


def test_numbers_too_long_for_the_elimination(monkeypatch):
    monkeypatch.setattr(module, "MOST_BITS", 65)  # the pivot is 2**128, and its root plus 1 counts
    assert proves([[0]], Fraction(1), 1, 0, [], 64)
    monkeypatch.setattr(module, "MOST_BITS", 64)
    with pytest.raises(ValueError, match="64 bits"):
        proves([[0]], Fraction(1), 1, 0, [], 64)


@settings(max_examples=150)
@given(st.data())
def test_random_damage_is_rejected(data):
    place = data.draw(st.integers(0, len(TEXT) - 1))
    character = data.draw(st.sampled_from('0123456789"{}[],:.eE-xnull \\\n'))
    damaged = TEXT[:place] + character + TEXT[place + 1 :]
    try:
        same = json.loads(damaged) == DATA
    except ValueError:
        same = False
    assert (check(damaged, ODD).outcome == "CONFIRMED") == same


# -- graphs that are none ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "neighbors",
    [
        [],
        [[]],
        [[0]],
        [[0, 1], [0, 1], [0, 0], [0, 1]],
        [[0, 1], [0, 2], [0, 1], [0, 1]],
        [[0, 1], [0, -1], [0, 1], [0, 1]],
        [[0, 1], [0, True], [0, 1], [0, 1]],
        [[0, 1], [0, 1.0], [0, 1], [0, 1]],
        [[0, 1], [0], [0, 1], [0, 1]],
        [[0, 1], "01", [0, 1], [0, 1]],
        7,
        None,
    ],
)
def test_no_graph_at_all(neighbors):
    text = certify(complete_bipartite(4, 2)).to_json()
    assert recheck(text, neighbors, 2).outcome == "REJECTED"


@pytest.mark.parametrize("n2", [0, -2, 3, True, 2.0, "2", None])
def test_no_number_of_right_vertices(n2):
    text = certify(complete_bipartite(4, 2)).to_json()
    assert recheck(text, [[0, 1]] * 4, n2).outcome == "REJECTED"
    assert recheck(text, [[0, 1]] * 4, 2).outcome == "CONFIRMED"


def test_stars_and_unequal_degrees_are_rejected_as_such():
    text = certify(complete_bipartite(4, 2)).to_json()
    for rows, n2 in (([[0], [1]], 2), ([[0, 1], [2, 3]], 4), ([[0, 1], [0, 2]], 3)):
        assert "degrees" in recheck(text, rows, n2).reason


@pytest.mark.parametrize("n2", [256, 257, 2**16, 2**16 + 1])
def test_the_digest_is_the_library_s(n2):
    rows = [[i, (i + 1) % n2] for i in range(n2)]
    assert module.Graph(rows, n2).statement()["digest"] == BiregularGraph(rows, n2).digest


@settings(max_examples=60)
@given(shapes(8, least_degree=2), seeds, st.integers(1, 3))
def test_components_and_gram_are_the_library_s(shape, seed, copies):
    mask = np.kron(np.eye(copies, dtype=np.int64), random_biregular(*shape, rng=seed).mask())
    graph = BiregularGraph.from_mask(mask)
    found = module.Graph(graph.neighbors.tolist(), graph.n2)
    assert found.statement()["components"] == certify(graph).components
    side = graph if graph.n2 <= graph.n1 else graph.transpose()
    assert found.gram() == [row[: j + 1] for j, row in enumerate(side.gram().tolist())]


# -- the elimination --------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(1, 5), st.data())
def test_proves_against_exact_minors(n, data):
    """Definite if and only if all leading minors are positive; exactly singular is never shown."""
    from sympy import Matrix

    entries = st.integers(-4, 4)
    lower = [[data.draw(entries) for _ in range(j + 1)] for j in range(n)]
    shift, sign = data.draw(st.integers(0, 2)), data.draw(st.sampled_from((1, -1)))
    level = Fraction(data.draw(st.integers(-40, 40)), data.draw(st.sampled_from((1, 2, 8))))
    vectors = data.draw(st.lists(st.lists(entries, min_size=n, max_size=n), max_size=2))
    whole = Matrix(n, n, lambda i, j: lower[max(i, j)][min(i, j)])
    whole = level * Matrix.eye(n) - sign * whole + shift * Matrix.ones(n, n)
    for b in vectors:
        whole += Matrix(b) * Matrix(b).T
    definite = all(whole[:k, :k].det() > 0 for k in range(1, n + 1))
    assert proves(lower, level, sign, shift, vectors, 64) == definite


@pytest.mark.parametrize(
    ("rows", "slack", "shown"),
    [
        ([[1]], 0, True),
        ([[0]], 0, False),
        ([[0]], 9, False),
        ([[-1]], 9, False),
        ([[4], [4, 4]], 9, False),
        ([[4], [4, 5]], 0, True),
        ([[4], [5, 8]], 0, False),
        ([[4], [5, 8]], 1, True),
        ([[4], [5, 11]], 0, False),
        ([[6], [5, 8]], 0, False),
        ([[9], [4, 100], [5, 0, 400]], 2, False),
        ([[9], [4, 100], [5, 0, 400]], 3, True),
    ],
)
def test_is_definite_weighs_every_remainder(rows, slack, shown):
    """A = L L' + E with hand-made remainders: what is beside the diagonal needs slack or spare."""
    assert is_definite([list(row) for row in rows], slack) is shown


def test_equality_is_not_definite():
    """At an eigenvalue itself, and any grid step above it is enough."""
    gram = [[2], [1, 2]]
    assert not proves(gram, Fraction(3), 1, 0, [], 64)
    assert proves(gram, Fraction(3) + Fraction(1, 2**50), 1, 0, [], 64)
    assert not proves(gram, Fraction(3) - Fraction(1, 2**50), 1, 0, [], 64)
    assert not proves(gram, Fraction(-1), -1, 0, [], 64)
    assert proves(gram, Fraction(-1) + Fraction(1, 2**50), -1, 0, [], 64)


# -- alone ------------------------------------------------------------------------------------


def test_it_stands_alone():
    text = FILE.read_text(encoding="utf-8")
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)


def run(*arguments, program=(str(FILE),)):
    command = [sys.executable, "-I", *program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def proof(tmp_path):
    path = tmp_path / "proof.json"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".json"])
def test_the_command(tmp_path, proof, suffix):
    mask, copy = tmp_path / f"mask{suffix}", tmp_path / "alone.py"
    save_mask(mask, BiregularGraph(ODD.neighbors, ODD.n2))
    copy.write_bytes(FILE.read_bytes())
    done = run(proof, mask, program=(str(copy),))
    assert (done.returncode, done.stdout.split(":")[0], done.stderr) == (0, "CONFIRMED", "")


def test_masks_that_readers_could_read_in_two_ways_are_not_read(tmp_path, proof):
    mask = tmp_path / "mask.npz"
    save_mask(mask, ODD)
    assert run(proof, mask).returncode == 0
    with zipfile.ZipFile(mask, "a") as archive:
        archive.writestr("mask", b"another mask")
    done = run(proof, mask)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the name of one array" in done.stderr

    mask = tmp_path / "mask.json"
    save_mask(mask, BiregularGraph(ODD.neighbors, ODD.n2))
    text = mask.read_text(encoding="utf-8")
    mask.write_text('{"neighbors": [[0]], ' + text.lstrip().removeprefix("{"), encoding="utf-8")
    done = run(proof, mask)
    assert (done.returncode, done.stdout) == (2, "")
    assert "repeated" in done.stderr


def test_exit_codes(tmp_path, proof, capsys):
    mask, large = tmp_path / "mask.npy", random_biregular(600, 600, 4, rng=0)
    save_mask(mask, ODD)
    assert module.main([str(proof), str(mask)]) == 0
    said = capsys.readouterr().out
    shape = f"{ODD.n1} x {ODD.n2} mask, d1 = {ODD.d1}, digest {ODD.digest}"
    assert said.startswith(
        f"CONFIRMED: PROVED, one-sided, of the {shape}; not derived again: limit"
    )
    save_mask(tmp_path / "edges.json", BiregularGraph(ODD.neighbors, ODD.n2))
    assert module.main([str(proof), str(tmp_path / "edges.json")]) == 0
    save_mask(mask, random_biregular(24, 12, 3, rng=6))
    assert module.main([str(proof), str(mask)]) == 1
    save_mask(mask, large)
    proof.write_text(certify(large).to_json(), encoding="utf-8")
    assert module.main([str(proof), str(mask)]) == 3
    save_mask(tmp_path / "recipe.json", large)
    for arguments in ([], [proof], [proof, "none.npy"], [proof, tmp_path / "recipe.json"], [1, 2]):
        assert module.main([str(a) for a in arguments]) == 2
    module.main([str(proof), str(tmp_path / "recipe.json")])
    assert "save the mask as .npz" in capsys.readouterr().err


def test_as_a_module(proof, tmp_path):
    save_mask(tmp_path / "mask.npz", ODD)
    done = run(proof, tmp_path / "mask.npz", program=("-m", "expandermask.certificates.recheck"))
    assert done.returncode == 0


KINDS = ["u1", "b1", "i1", "<i2", ">i2", "<i4", "<i8", ">i8", "<f4", ">f4", "<f8"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_kind(tmp_path, kind, order):
    path = tmp_path / "mask.npy"
    np.save(path, np.asarray(ODD.mask().astype(kind), order=order))
    assert module.read_mask(str(path)) == (ODD.neighbors.tolist(), ODD.n2)
    np.savez(tmp_path / "one.npz", anything=ODD.mask())
    assert module.read_mask(str(tmp_path / "one.npz")) == (ODD.neighbors.tolist(), ODD.n2)


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2), 2),
        np.full((2, 2), np.nan),
        np.full((2, 2), 0.5),
        np.ones((2, 2, 2)),
        np.ones(4),
        np.ones((2, 2), dtype=complex),
        np.array([["1", "1"]]),
    ],
)
def test_arrays_that_are_no_masks(tmp_path, array):
    np.save(tmp_path / "mask.npy", array)
    with pytest.raises((ValueError, KeyError)):
        module.read_mask(str(tmp_path / "mask.npy"))


def test_damaged_masks(tmp_path, monkeypatch):
    path = tmp_path / "mask.npy"
    np.save(path, ODD.mask())
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"\0", b"\x94" + content[1:], content[:60], b""):
        path.write_bytes(damaged)
        assert module.main([str(path), str(path)]) == 2
    path.write_bytes(content)
    np.savez(tmp_path / "two.npz", a=ODD.mask(), b=ODD.mask())
    with pytest.raises(ValueError, match="unpack"):
        module.read_mask(str(tmp_path / "two.npz"))
    for most, fits in ((len(content), True), (len(content) - 1, False)):
        monkeypatch.setattr(module, "MOST_BYTES", most)
        assert (module.main([str(path), str(path)]) == 1) is fits
