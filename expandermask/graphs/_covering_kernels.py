"""Numba kernels for coverings: lifts of rows, greedy signs, and the search for a covering map.

Plain loops, all state passed in; randomness is the SplitMix64 of ``_kernels``. No kernel reorders
or fuses floating-point operations, so the greedy signs are the same on every IEEE platform. Slow,
obvious versions are in ``tests/oracles/coverings.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel
from expandermask.graphs._kernels import below

_IMPROVES = 1e-12


@kernel()
def permuted_rows(neighbors, r, seed):
    """Rows (n1 r, d1) of the covering with a uniform permutation of r layers on each base edge."""
    n1, d1 = neighbors.shape
    state = np.array([seed], dtype=np.uint64)
    rows = np.empty((n1 * r, d1), dtype=np.int32)
    layers = np.empty(r, dtype=np.int64)
    for i in range(n1):
        for a in range(d1):
            for g in range(r):
                layers[g] = g
            for g in range(r - 1, 0, -1):
                h = below(state, g + 1)
                layers[g], layers[h] = layers[h], layers[g]
            for g in range(r):
                rows[i * r + g, a] = neighbors[i, a] * r + layers[g]
    return rows


@kernel()
def random_voltages(n1, d1, r, seed):
    """An (n1, d1) array of integers uniform on [0, r)."""
    state = np.array([seed], dtype=np.uint64)
    voltages = np.empty((n1, d1), dtype=np.int64)
    for i in range(n1):
        for a in range(d1):
            voltages[i, a] = below(state, r)
    return voltages


@kernel()
def signed_codegrees(neighbors, signs, n2):
    """S'S, int64 (n2, n2), for the signed biadjacency matrix S with entries ``signs``."""
    gram = np.zeros((n2, n2), dtype=np.int64)
    n1, d1 = neighbors.shape
    for i in range(n1):
        for a in range(d1):
            for b in range(d1):
                gram[neighbors[i, a], neighbors[i, b]] += signs[i, a] * signs[i, b]
    return gram


@kernel()
def greedy_signs(neighbors, n2, x, seed):
    """Signs, int8 (n1, d1), chosen row by row to keep x I - S'S positive definite.

    ``inverse`` is (x I - D)**-1, D being the Gram matrix of the rows already signed plus the
    expectation (a diagonal) of the rest. Each row starts from random signs v and flips one at a
    time while that lowers v' inverse v. Returns the signs and whether positive definiteness held.
    """
    n1, d1 = neighbors.shape
    state = np.array([seed], dtype=np.uint64)
    signs = np.empty((n1, d1), dtype=np.int8)
    inverse = np.zeros((n2, n2))
    for y in range(n2):
        inverse[y, y] = 1.0 / (x - n1 * d1 // n2)
    column = np.empty(n2)
    for i in range(n1):
        row, v = neighbors[i], signs[i]
        for y in row:  # the expectation of this row leaves D
            column[:] = inverse[y]
            _add_outer(inverse, column, -1.0 / (1.0 + column[y]))
        for a in range(d1):
            v[a] = 1 - 2 * below(state, 2)
        _descend(v, row, inverse)
        column[:] = 0.0
        for a in range(d1):
            for y in range(n2):
                column[y] += v[a] * inverse[row[a], y]
        form = 0.0
        for a in range(d1):
            form += v[a] * column[row[a]]
        if form >= 1.0:
            return signs, False
        _add_outer(inverse, column, 1.0 / (1.0 - form))  # the row itself enters it
    return signs, True


@kernel()
def _add_outer(matrix, column, factor):
    """``matrix`` += factor * column column', in place, skipping zero rows."""
    for y in range(column.size):
        f = factor * column[y]
        if f != 0.0:
            for z in range(column.size):
                matrix[y, z] += f * column[z]


@kernel()
def _descend(v, row, matrix):
    """Flip single signs of v while that lowers the form v' B v, B the rows and columns ``row``."""
    flipped = True
    while flipped:
        flipped = False
        for a in range(row.size):
            field = 0.0
            for b in range(row.size):
                if b != a:
                    field += v[b] * matrix[row[a], row[b]]
            if field * v[a] > _IMPROVES:
                v[a] = -v[a]
                flipped = True


@kernel()
def find_images(neighbors, todo, choices, adjacent, r, interchangeable, budget):
    """Search for a map of vertices to base vertices, injective around each, with r over each.

    ``neighbors`` lists the vertices of both sides, left ones first, padded with -1; ``todo`` holds
    those to be mapped, ``choices[v]`` the first and last + 1 base vertex v may go to. Unless
    ``interchangeable``, neighbours must go to neighbours, as the Boolean matrix ``adjacent`` of the
    base says; if so, unused base vertices are all alike, and only the first of them is tried.
    Backtracks on the vertex with the fewest images left, with at most ``budget`` assignments.

    Returns the images (-1 for none) and 1: found, 0: there is none, -1: budget spent.
    """
    images = np.full(neighbors.shape[0], -1, dtype=np.int64)
    forbidden = np.zeros((neighbors.shape[0], adjacent.shape[0]), dtype=np.int32)
    left = choices[:, 1] - choices[:, 0]
    used = np.zeros(adjacent.shape[0], dtype=np.int64)
    path = np.empty(todo.size, dtype=np.int64)
    depth, v = 0, todo[0]
    c = choices[v, 0]
    while depth >= 0:
        first, end = choices[v]
        c = _next_image(forbidden[v], c, first, end, used, r, interchangeable)
        if c < end:
            if budget == 0:
                return images, -1
            budget -= 1
            images[v], path[depth] = c, v
            used[c] += 1
            _mark(neighbors, adjacent, forbidden, left, choices, v, c, interchangeable, 1)
            depth += 1
            if depth == todo.size:
                return images, 1
            v = _tightest(todo, images, left)
            c = choices[v, 0]
        else:
            depth -= 1
            if depth >= 0:
                v = path[depth]
                c = images[v]
                _mark(neighbors, adjacent, forbidden, left, choices, v, c, interchangeable, -1)
                images[v] = -1
                used[c] -= 1
                c += 1
    return images, 0


@kernel()
def _tightest(todo, images, left):
    """The unmapped vertex with the fewest images left."""
    best = -1
    for v in todo:
        if images[v] < 0 and (best < 0 or left[v] < left[best]):
            best = v
    return best


@kernel()
def _next_image(forbidden, c, first, end, used, r, interchangeable):
    """The first allowed image from c on, ``end`` for none; of unused ones alike only the first."""
    while c < end:
        if interchangeable and c > first and used[c] == 0 and used[c - 1] == 0:
            return end
        if forbidden[c] == 0 and used[c] < r:
            return c
        c += 1
    return end


@kernel()
def _mark(neighbors, adjacent, forbidden, left, choices, v, c, interchangeable, step):
    """Count (step 1) or uncount (step -1) what mapping v to c forbids its surroundings."""
    for u in neighbors[v]:
        if u < 0:
            break
        for w in neighbors[u]:
            if w < 0:
                break
            if w != v:
                _forbid(forbidden, left, w, c, step)
        if not interchangeable:
            for x in range(choices[u, 0], choices[u, 1]):
                if not adjacent[c, x]:
                    _forbid(forbidden, left, u, x, step)


@kernel()
def _forbid(forbidden, left, v, c, step):
    before = forbidden[v, c]
    forbidden[v, c] = before + step
    if before == 0:
        left[v] -= 1
    elif before + step == 0:
        left[v] += 1
