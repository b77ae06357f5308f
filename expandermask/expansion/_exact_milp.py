"""Better cuts by mixed-integer linear programming (Dinkelbach's method over HiGHS).

The solver works in floating point, so only its cuts are used: they are counted again in integers.
What it says about their being best is reported as a claim and never enters a proved bound.
"""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np

from expandermask.expansion.cuts import Cut

_TOLERANCE = 1e-4
"""How far below an integer the solver's bound may be and still be taken for it, in a claim."""


def better_cut(cut: Cut, seconds: float) -> tuple[Cut, Fraction | None]:
    """The best cut found from ``cut`` on within about ``seconds``, and the bound HiGHS claims.

    For the ratio p / q of the best cut so far, minimise q |boundary| - p |X| over the sets X of at
    most half of the vertices: the minimum is an integer, below zero exactly if a better cut exists
    (W. Dinkelbach, "On nonlinear fractional programming", Management Science 13, 1967). The claim
    is the most that the solver's dual bounds b, rounded up to integers, would imply if they were
    exact: |boundary| / |X| >= (p + b) / q. It is None if there was no time for one. How far the
    search gets depends on the clock.
    """
    deadline, claim = time.monotonic() + seconds, None
    while (left := deadline - time.monotonic()) > 0:
        ratio = cut.ratio
        found, bound = _solve(cut, ratio, left)
        if math.isfinite(bound):
            below = min(0, math.ceil(bound - _TOLERANCE))
            implied = Fraction(ratio.numerator + below, ratio.denominator)
            claim = max(Fraction(0), implied, claim or implied)
        if found is None or found.ratio >= ratio:
            break
        cut = found
    return cut, claim


def _solve(cut: Cut, ratio: Fraction, seconds: float) -> tuple[Cut | None, float]:
    """The set X with the least q |boundary| - p |X| found, and the solver's bound on the least.

    Variables are x (is v in X), 0 or 1, and z (does this edge cross; or, for the kind "vertex", is
    this vertex in the boundary), which x_u - x_v <= z forces up for every edge in both directions.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    graph = cut.graph
    n, m = graph.n1 + graph.n2, graph.num_edges
    ends = np.stack([graph.lefts, graph.n1 + graph.rights.astype(np.int64)])
    tails, heads = ends.ravel(), ends[::-1].ravel()
    counted = np.tile(np.arange(m), 2) if cut.kind == "edge" else heads
    columns = n + (m if cut.kind == "edge" else n)
    places = np.concatenate([tails, heads, n + counted])
    signs = np.repeat([1.0, -1.0, -1.0], 2 * m)
    forcing = csr_array((signs, (np.tile(np.arange(2 * m), 3), places)), shape=(2 * m, columns))
    is_x = np.arange(columns) < n
    result = milp(
        np.where(is_x, -float(ratio.numerator), float(ratio.denominator)),
        integrality=is_x.astype(np.uint8),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(forcing, -np.inf, 0),
            LinearConstraint(is_x[None, :].astype(float), 1, n // 2),
        ],
        options={"time_limit": seconds},
    )
    bound = result.mip_dual_bound if result.mip_dual_bound is not None else -math.inf
    if result.x is None:
        return None, bound
    inside = result.x[:n] > 0.5
    if not 0 < inside.sum() <= n // 2:
        return None, bound
    return Cut(graph, cut.kind, inside[: graph.n1], inside[graph.n1 :]), bound
