"""The lower limits by other roads: enumeration, a numerical linear program, a whole ideal ball."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Matrix = NDArray[np.int64]


def second_eigenvalue(matrix: Matrix) -> float:
    """The largest eigenvalue orthogonal to all-ones, of a symmetric matrix of equal row sums."""
    shifted = matrix - (abs(matrix).sum() + 1) * np.ones(matrix.shape)
    return float(np.linalg.eigvalsh(shifted)[-1])


def even_codegree_matrices(v: int, e: int) -> list[Matrix]:
    """Every integer B, zero diagonal, row sums e, with I + J - B positive definite, of order v.

    Entries of B are 0, 1 or 2, since a positive definite matrix with 2 on its diagonal has only
    -1, 0, 1 beside it. Rows are filled one by one; leading minors must stay positive.
    """
    found: list[Matrix] = []
    gram = 2 * np.eye(v, dtype=np.int64)
    _fill_row(gram, 1, v + 1 - e, found)
    return [1 - gram + np.eye(v, dtype=np.int64) for gram in found]


def _fill_row(gram: Matrix, row: int, total: int, found: list[Matrix]) -> None:
    v = len(gram)
    if row == v:
        if (gram.sum(axis=1) == total).all():
            found.append(gram.copy())
        return
    for entries in product((-1, 0, 1), repeat=row):
        gram[row, :row] = gram[:row, row] = entries
        short = total - gram[: row + 1, : row + 1].sum(axis=1)
        if abs(short).max() <= v - 1 - row and np.linalg.det(gram[: row + 1, : row + 1]) > 0.5:
            _fill_row(gram, row + 1, total, found)
    gram[row, :row] = gram[:row, row] = 0


def three_moments(v: int, k: int, m: int) -> float:
    """Sum over the spectrum of B of (x - t)(x - a)**2, best a: the smallest t it allows.

    With tr B = 0, tr B**2 >= v e and tr B**3 >= v k (m - 1)(m - 2) for q = 0 (each block is a
    clique), >= 0 otherwise, where B >= 0 or else mu >= 1.
    """
    q, e = divmod(k * (m - 1), v - 1)
    if e == 0:
        return k - q
    cliques = 0 if q else k * (m - 1) * (m - 2)
    s0, s1, s2, s3 = v - 1, -e, v * e - e * e, v * cliques - e**3
    square, linear, constant = s0 * s2 - s1 * s1, s1 * s2 - s0 * s3, s1 * s3 - s2 * s2
    root = math.sqrt(max(linear * linear - 4 * square * constant, 0))
    t = (root - linear) / (2 * square)
    a = (s2 - t * s1) / (s1 - t * s0)
    assert t + 2 * a < 1e-9
    return k - q + max(0.0, min(1, t) if q else t)


def linear_program(v: int, k: int, m: int, degree: int) -> float:
    """The same limit from the linear program itself, by HiGHS and bisection: numerical.

    Is there a measure on [0, s], of mass v - 1, that with a unit at k m makes the traces of all
    nonbacktracking two-step walk polynomials nonnegative, that of the first zero?
    """

    def polynomials(x: NDArray[np.float64]) -> NDArray[np.float64]:
        y = x - k
        rows = [np.ones_like(y), y, y * y - (m - 2) * y - k * (m - 1)]
        while len(rows) <= degree:
            rows.append((y - m + 2) * rows[-1] - (m - 1) * (k - 1) * rows[-2])
        return np.array(rows)

    def possible(s: float) -> bool:
        grid = s * (1 - np.cos(np.linspace(0, np.pi, 800))) / 2
        rows, target = polynomials(grid), -polynomials(np.array([float(k * m)]))[:, 0]
        target[0] += v
        scale = abs(rows).max(axis=1)
        rows, target = rows / scale[:, None], target / scale
        answer = linprog(
            np.zeros_like(grid), A_ub=-rows[2:], b_ub=-target[2:], A_eq=rows[:2], b_eq=target[:2]
        )
        return bool(answer.status == 0)

    low, high = 0.0, float(k * m)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return high


def ideal_ball(v: int, w: int, k: int, m: int) -> float:
    """Second largest squared eigenvalue of the ideal ball's quotient, shells of both sides.

    Shells from a root among the v are filled until one side cannot hold the next; that one and
    the other side's take all that is left.
    """
    degrees, rest = (k, m), [v - 1, w]
    sizes, edges, shell = [1], [k], 1
    while edges[-1] <= rest[shell % 2]:
        sizes.append(edges[-1])
        rest[shell % 2] -= edges[-1]
        edges.append(sizes[-1] * (degrees[shell % 2] - 1))
        shell += 1
    sizes += [rest[shell % 2], rest[1 - shell % 2]]
    edges.append(sizes[-1] * degrees[1 - shell % 2])
    assert edges[-2] + edges[-1] == sizes[-2] * degrees[shell % 2]
    kept = [n for n in sizes if n]
    beside = [x / math.sqrt(a * b) for x, a, b in zip(edges, kept, kept[1:], strict=False)]
    return float(np.sort(np.linalg.eigvalsh(np.diag(beside, 1) + np.diag(beside, -1)))[-2]) ** 2


def signed_tree(c: int) -> Matrix:
    """Gram matrix of e_a - e_b over the arcs of a tree: c into each of 2c - 1, those into one.

    Positive definite, 2 on the diagonal, all row sums c, and -1 where arcs follow each other.
    """
    arms = 2 * c - 1
    arcs = [(1 + i, 0) for i in range(arms)]
    arcs += [(1 + arms + c * i + j, 1 + i) for i in range(arms) for j in range(c)]
    roots = np.zeros((len(arcs), len(arcs) + 1), dtype=np.int64)
    for row, (tail, head) in enumerate(arcs):
        roots[row, tail], roots[row, head] = 1, -1
    return roots @ roots.T
