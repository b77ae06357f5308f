"""The average over what is left of the matching being chosen, as a sum over a few hundred points.

A real integral and a contour through the saddle point replace the average over permutations, so
that nothing cancels; at each point a determinant is evaluated, and with its inverse those of all
children. Formulas: ``docs/theory/interlacing.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import NotProvedError
from expandermask.graphs import _interlacing_kernels
from expandermask.graphs._interlacing_contour import DROP, Complexes, Contour, Reals

Indices = tuple[NDArray[np.int64], ...]
Point = tuple[complex, complex]

_MARGIN = 2.0
_FEW = 300
_ANGLES, _SHARES = 1.2, 1.5
_OUT = 1e6
_STARTS = (0.8, 1.0, 1.25, 1.5, 2.0)


@dataclass(frozen=True)
class Node:
    """One row of the matching being chosen: the average of det(w - M'M) over what is open.

    Over a random completion it is that of det(w - fixed - (X + QY)'(X + QY)) over rotations Q, with
    first = X'X and second = Y'Y. All of order n2, with the all-ones vector in the kernel.
    """

    fixed: Reals
    """The chosen part of M'M."""
    first: Reals
    """Gram matrix of the earlier matchings on the open rows, centred."""
    second: Reals
    """Gram matrix of the open edges of this matching, centred."""
    counts: Reals
    """How many open edges each column has; they sum to the number of open rows."""
    step: Reals
    """The next row of the earlier matchings, centred."""


def children(
    node: Node, contour: Contour, starts: list[Point] | None
) -> tuple[float, Reals, list[Point]]:
    """The expectation after matching the next row to each column, as values exp(log_scale).

    Returns ``log_scale``, the values (n2,), and the saddles of all contour nodes, from which to
    look for the next ones. The value of a column without open edges means nothing.
    """
    m = round(float(node.counts.sum()))
    saddles, hessian = find_saddles(contour, node, m - 1, starts)
    after = node.first - m / (m - 1) * np.outer(node.step, node.step)
    sigma, y, log_weight = matching_nodes(m - 2, saddles, hessian)

    def evaluate(at: Indices) -> tuple[Complexes, Complexes]:
        log_det, factors = _interlacing_kernels.child_factors(
            contour.w[at[0]],
            sigma[at],
            y[at],
            node.fixed,
            after,
            node.second,
            node.counts,
            node.step,
        )
        outer = contour.log_weight[at[0]] - np.log(contour.w[at[0]])
        return log_det + log_weight[at] + outer, factors

    times = _multiplicity(sigma.shape)
    at = _nodes_that_matter(times, lambda at: evaluate(at)[0].real)
    logs, factors = evaluate(at)
    log_scale = float(logs.real.max())
    values: Reals = ((np.exp(logs - log_scale) * times[at])[:, None] * factors).sum(axis=0).real
    return log_scale, values, saddles


def _nodes_that_matter(times: Reals, log_size: Callable[[Indices], Reals]) -> Indices:
    """Indices (contour, share, angle) of all nodes, or of those that are not negligible if many.

    The size of a term is estimated from the three lines through the saddle, as if the logarithms
    added up; estimates are distrusted by a factor.
    """
    if times.size <= _FEW:
        return np.nonzero(times)
    nodes, shares, angles = times.shape
    zero, b = np.zeros_like, shares // 2

    def profile(at: Indices) -> Reals:
        sizes = log_size(at)
        return np.asarray(sizes - sizes.max())

    line = np.arange(nodes)
    by_w = profile((line, zero(line) + b, zero(line)))
    line = np.arange(shares)
    by_share = profile((zero(line), line, zero(line)))
    line = np.arange(angles // 2 + 1)
    by_angle = profile((zero(line), zero(line) + b, line))
    angle = np.arange(angles)
    by_angle = by_angle[np.minimum(angle, angles - angle)]
    estimate = by_w[:, None, None] + by_share[:, None] + by_angle
    return np.nonzero((estimate > np.log(DROP) - _MARGIN) & (times > 0))


def _multiplicity(shape: tuple[int, ...]) -> Reals:
    """How often each node (contour, share, angle) counts: of conjugate pairs one is evaluated."""
    times = np.full(shape, 2.0)
    index = np.arange(shape[2])
    real = (index == 0) | (2 * index == shape[2])
    times[0] = np.where(real, 1.0, np.where(2 * index < shape[2], 2.0, 0.0))
    return times


def find_saddles(
    contour: Contour, node: Node, order: int, starts: list[Point] | None
) -> tuple[list[Point], Reals]:
    """The saddle (sigma, y) for each node of the contour, and the Hessian of h at the first.

    The first node is real, and so is its saddle; it is followed around the contour. Of two real
    solutions the saddle is the one farther from the edge of the domain, with the larger sigma + y.
    One that is not found leaves a poor contour, as the self-check will say.
    """
    w = contour.w[0].real
    if starts is None:
        tries = [_newton(w, node, order, (start, start))[0] for start in _STARTS]
        starts = [max(tries, key=lambda at: (at[0] + at[1]).real)]
    first, hessian = _newton(w, node, order, starts[0])
    found = [first]
    for i in range(1, contour.w.size):
        start = starts[i] if i < len(starts) else found[-1]
        found.append(_newton(complex(contour.w[i]), node, order, start)[0])
    return found, hessian


def _newton(w: complex, node: Node, order: int, start: Point) -> tuple[Point, Reals]:
    """Solve h_sigma = h_y = order / (sigma + y - 1) to a part in a thousand; with the Hessian.

    h = order (log sigma + log y) + log det(w - fixed - first / sigma - second / y).
    """
    at = start
    while (state := _derivatives(w, node, order, at)) is None:
        at = (1.3 * at[0], 1.3 * at[1])
        if abs(at[0]) > _OUT:
            raise NotProvedError(f"the rows chosen so far have an eigenvalue above {w:.6g}")
    for _ in range(40):
        residual, jacobian, _ = state
        size = np.abs(residual).max()
        if size < 1e-3:
            break
        step, moved = np.linalg.solve(jacobian, -residual), None
        t = min(1.0, abs(at[0] + at[1] - 1) / (4 * np.abs(step).max()))
        while moved is None and t > 1e-3:
            trial = (at[0] + t * step[0], at[1] + t * step[1])
            moved = _derivatives(w, node, order, trial)
            if moved is not None and np.abs(moved[0]).max() > size:
                moved = None
            t /= 2
        if moved is None:
            break
        at, state = trial, moved
    return at, state[2]


def _derivatives(w: complex, node: Node, order: int, at: Point) -> tuple[Any, Any, Any] | None:
    """Scaled residual, its Jacobian, and the Hessian of h; None outside the domain for real w."""
    s, y = at
    r = s + y - 1
    matrix = w * np.eye(len(node.fixed)) - node.fixed - node.first / s - node.second / y
    if not isinstance(w, complex) and (min(s, y, r) <= 0 or not _is_positive(matrix)):
        return None
    inverse = np.linalg.inv(matrix)
    on_first, on_second = inverse @ node.first, inverse @ node.second
    gradient = np.array(
        [order / s + np.trace(on_first) / s**2, order / y + np.trace(on_second) / y**2]
    )
    across = -(on_first * on_second.T).sum() / (s * y) ** 2
    hessian = np.array(
        [[_second(order, s, on_first), across], [across, _second(order, y, on_second)]]
    )
    return gradient * r / order - 1, (hessian * r + gradient[:, None]) / order, hessian


def _is_positive(matrix: Reals) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _second(order: int, s: complex, product: Complexes) -> complex:
    """The second derivative of h along one variable."""
    found: complex = (
        -order / s**2 - 2 * np.trace(product) / s**3 - (product * product.T).sum() / s**4
    )
    return found


def matching_nodes(
    order: int, saddles: list[Point], hessian: Reals
) -> tuple[Complexes, Complexes, Complexes]:
    """Nodes sigma and y and log weights, each (contour, B, T), of the average over a matching.

    Gauss-Legendre in beta, the share of the first variable, and equal steps in the angle of
    tau = r exp(i theta), through each saddle. Exact while ``order`` is small.
    """
    s, y = np.array(saddles, dtype=np.complex128).T[:, :, None, None]
    if order == 0:
        return np.ones_like(s), np.ones_like(s), np.zeros_like(s)
    r = s + y - 1
    middle, aside = np.array([1, 1]) * r[0].real.item() / 2, np.array([1, -1]) * r[0].real.item()
    along = max(middle @ hessian @ middle + order, order / 4)
    across = max(-(aside @ hessian @ aside), 1.0)
    spread = np.sqrt(-2 * np.log(DROP))
    angles = int(min(order + 1, _ANGLES * spread * np.sqrt(along) + 8))
    shares = int(min(order // 2 + 1, _SHARES * np.sqrt(across) + 8))
    x, weight = np.polynomial.legendre.leggauss(shares)
    beta, weight = (x + 1) / 2, weight / 2
    if shares < order // 2 + 1:
        near = np.abs(beta - 0.5) < 1.6 * spread / np.sqrt(across)
        beta, weight = beta[near], weight[near]
    beta, weight = beta[:, None], weight[:, None]
    tau = r * np.exp(2j * np.pi * np.arange(angles) / angles)
    sigmas, ys = s - r / 2 + tau * beta, y - r / 2 + tau * (1 - beta)
    log_weight = np.log((order + 1) / angles * weight) + order * (
        np.log(sigmas) + np.log(ys) - np.log(tau)
    )
    return sigmas, ys, log_weight
