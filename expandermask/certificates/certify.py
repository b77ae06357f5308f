"""certify(): is this mask Ramanujan? PROVED, REFUTED or UNDECIDED, with the evidence.

Tier 1 is a rigorous floating-point Cholesky test (`cholesky`), taken block by block (`blocks`) for
a large graph with a cyclic symmetry; tier 2 is an exact polynomial test (`descartes`) for what the
first cannot decide, ties above all; tier 3 (`lanczos`) is for graphs too large for a proof, which
it can only refute. A refutation carries an integer vector, or a root count, that anyone can check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from tqdm import tqdm

from expandermask.certificates.blocks import Blocks, cyclic_order
from expandermask.certificates.bounds import Limits, RamanujanBound, limits
from expandermask.certificates.certificate import (
    OUTWARD,
    Certificate,
    Definition,
    named_limits,
    sqrt_below,
)
from expandermask.certificates.definitions import check_definition, graph_for
from expandermask.certificates.judge import Case, judge
from expandermask.errors import TooLargeError, check_ramanujan_shape, require_memory
from expandermask.graphs.biregular import BiregularGraph

BLOCKS_ABOVE = 512
"""Smaller sides up to this are tested whole: it takes milliseconds, and ties can be decided."""

DENSE_LIMIT = 16384
"""Largest smaller side that is tested whole: 6 GiB and a minute or two at this size."""

_SLOW_SIDE = 4096


def certify(
    graph_or_mask: Any, *, definition: Definition = "one-sided", eps: float | None = None
) -> Certificate:
    """Decide whether a graph or 0/1 mask is Ramanujan, and enclose its second singular value.

    Parameters
    ----------
    graph_or_mask : BiregularGraph, 2-D array, tensor or scipy.sparse matrix of 0/1, networkx Graph
        What to certify, of shape (n1, n2). The left side of a networkx graph are its nodes with
        ``bipartite=0``, or those of a 2-colouring where no node has that attribute.
    definition : {"one-sided", "two-sided", "regular", "within"}
        What has to hold, besides that the graph is connected; equality always counts.

        - "one-sided": sigma_2 <= rho = sqrt(d1 - 1) + sqrt(d2 - 1).
        - "two-sided": also sigma_min >= abs(sqrt(d1 - 1) - sqrt(d2 - 1)), where sigma_min is the
          least of the min(n1, n2) singular values.
        - "regular": of a d-regular networkx graph, or a square adjacency matrix, bipartite or not:
          every eigenvalue but d (and -d, if it is bipartite) is at most 2 sqrt(d - 1) in modulus.
          The certificate is about the graph itself if it is bipartite, and otherwise about its
          bipartite double cover, whose biadjacency matrix is the adjacency matrix.
        - "within": sigma_2 <= rho + eps, the weak sense in which almost all random graphs are
          Ramanujan.
    eps : float, optional
        At least 0; only for "within".

    Returns
    -------
    Certificate
        PROVED and REFUTED are theorems. UNDECIDED is returned where sigma_2 is closer to the bound
        than floating point can tell and the graph too large for the exact test (n > 512, or
        "within"); and where the graph is too large for a proof (n > 16384 or short of memory, and
        without cyclic symmetry). Then the reason gives the probability with which a random start
        of Lanczos would have missed a sigma_2 above the bound.

    Raises
    ------
    InvalidInputError, NotBiregularError, InfeasibleShapeError
        Not a biregular 0/1 mask, or one with d1 = 1 or d2 = 1 (stars), or no such definition.

    Notes
    -----
    With n = min(n1, n2): O(n1 d1**2 + n**3) time, a fraction of a millisecond at n = 64, and 24
    n**2 bytes; for n > 512, O(n1 d1**2 + n**3 / r**2) if the shift within groups of r vertices is
    an automorphism, as in `quasi_cyclic` graphs; beyond, a few hundred products with the mask.
    Sources: Feng and Li, "Spectra of hypergraphs and applications", 1996 (one- and two-sided);
    Lubotzky, Phillips and Sarnak, "Ramanujan graphs", 1988 (regular); Friedman, "A proof of Alon's
    second eigenvalue conjecture", 2008, and for biregular graphs Brito, Dumitriu and Harris,
    "Spectral gap in random bipartite biregular graphs", 2022 (within).

    Examples
    --------
    >>> import networkx as nx, numpy as np, expandermask as xm
    >>> tiled = np.tile(np.eye(4, dtype=int), (2, 2)) | np.tile(np.eye(4, dtype=int)[::-1], (2, 2))
    >>> xm.certify(tiled).verdict
    'REFUTED'
    >>> xm.certify(nx.petersen_graph(), definition="regular").verdict
    'PROVED'
    >>> cube = xm.graphs.hypercube(7)  # sigma_2 = 5, rho = 4.899
    >>> [xm.certify(cube, definition="within", eps=eps).verdict for eps in (0.1, 0.2)]
    ['REFUTED', 'PROVED']
    """
    definition, slack = check_definition(definition, eps)
    graph = graph_for(definition, graph_or_mask)
    n1, n2, d1, d2 = check_ramanujan_shape(graph.n1, graph.n2, graph.d1)
    side = short_side_right(graph)
    bound, best = RamanujanBound(d1, d2, slack), limits(n1, n2, d1)
    with _stages(side.n2) as stage:
        stage("Gram matrix")
        blocks, obstacle = _blocks_or_why_not(side)
        stage("eigenvector")
        case = Case(graph, side, definition, bound, blocks, obstacle)
        stage("verdict")
        judged = judge(case)
        stage("enclosure")
        upper = _proved_upper(case, best)
    if judged.verdict == "PROVED":
        upper = min(upper, bound.value * (1 + OUTWARD))
    named, limit = named_limits(best)
    return Certificate(
        verdict=judged.verdict,
        method=judged.method,
        definition=definition,
        eps=slack,
        n1=n1,
        n2=n2,
        d1=d1,
        d2=d2,
        digest=graph.digest,
        sigma2=(_proved_lower(case, best), upper),
        sigma_min=judged.sigma_min,
        bound=RamanujanBound(d1, d2).value,
        limit=limit,
        limits=named,
        components=case.components,
        simple=True,
        evidence=judged.evidence,
        reason=judged.reason,
    )


def is_proved_ramanujan(graph: BiregularGraph) -> bool:
    """Whether tier 1 alone proves ``graph`` Ramanujan: the fast path of the generators.

    False says nothing. It is also returned where both degrees are 2, since the bound does not
    imply connectivity there.
    """
    bound = RamanujanBound(graph.d1, graph.d2)
    if bound.D <= 1:
        return False
    return split(short_side_right(graph)).proves_at_most(bound.square_below())


def split(side: BiregularGraph) -> Blocks:
    """The Gram matrix as tier 1 tests it: whole, or by blocks if the graph is large and symmetric.

    Raises `TooLargeError` if neither the whole matrix nor one of its blocks can be tested.
    """
    r = cyclic_order(side) if side.n2 > BLOCKS_ABOVE else 1
    if r == 1:
        require_dense(side.n2)
    else:
        size, pairs = side.n2 // r, side.n1 // r * side.d1**2
        require_memory(
            64 * size**2 + 48 * pairs, f"certifying a graph by blocks of {size} vertices"
        )
    return Blocks(side, r)


def require_dense(n: int) -> None:
    """Raise `TooLargeError` unless the dense tests can be run on a smaller side of ``n``."""
    try:
        if n > DENSE_LIMIT:
            raise TooLargeError(
                f"proofs on the whole matrix are run up to {DENSE_LIMIT} vertices on the smaller "
                f"side, and this graph has {n}"
            )
        require_memory(24 * n * n, f"certifying a graph whose smaller side has {n} vertices")
    except TooLargeError as error:
        raise TooLargeError(
            f"{error}; expandermask.graphs.quasi_cyclic makes graphs of about this size whose "
            "symmetry allows a proof block by block"
        ) from None


def short_side_right(graph: BiregularGraph) -> BiregularGraph:
    """The graph turned so that n2 <= n1."""
    return graph if graph.n2 <= graph.n1 else graph.transpose()


@contextmanager
def _stages(n: int) -> Iterator[Callable[[str], None]]:
    """A bar that names the stage a large certificate is at; each takes seconds."""
    if n <= _SLOW_SIDE:
        yield lambda name: None
        return
    names: list[str] = []
    with tqdm(total=4, leave=False, disable=None) as bar:

        def stage(name: str) -> None:
            bar.update(bool(names))
            bar.set_description(name)
            names.append(name)

        yield stage


def _blocks_or_why_not(side: BiregularGraph) -> tuple[Blocks | None, str]:
    try:
        return split(side), ""
    except TooLargeError as error:
        return None, str(error)


def _proved_lower(case: Case, best: Limits) -> float:
    """A proved lower end for sigma_2: an exact quotient or a limit of the shape.

    Where the certificate can be checked again on its own, only the limits that the checker knows
    how to derive are used; the others would add the last bit at most.
    """
    simple = max(best.trace, Fraction(best.integrality))
    return sqrt_below(max(case.square, simple if case.is_small else best.best))


def _proved_upper(case: Case, best: Limits) -> float:
    """A proved upper end for sigma_2, a hair above the exact lower bound if a test allows it."""
    side, blocks = case.side, case.blocks
    trivial = side.d1 * side.d2
    total = best.trace * (side.n2 - 1)
    if total == 0:
        return 0.0
    ceiling = math.sqrt(min(float(total), trivial)) * (1 + OUTWARD)
    if blocks is None:
        return ceiling
    slack = 4 * blocks.margin(float(case.square))
    for _ in range(6):
        c = float(case.square) * (1 + OUTWARD) + slack
        if c >= trivial:
            break
        if blocks.proves_at_most(c):
            return min(ceiling, math.sqrt(c) * (1 + OUTWARD))
        slack *= 16
    return ceiling
