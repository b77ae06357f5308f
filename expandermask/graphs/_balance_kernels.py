"""Numba kernels of `balance`: the log-determinant greedy, and descent by switches.

Every float here holds an integer small enough that sums of products are exact, so neither the order
of a sum nor a fused multiply-add nor the BLAS in use can change a bit; where a quotient is rounded,
each operation is a single IEEE one, rounded to an integer before anything is added to it. State is
passed in as arguments. Slow, obvious versions are in ``tests/oracles/balance.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel
from expandermask.graphs._kernels import below

_ONE = 2.0**20
_LARGEST = 2.0**26
_TOP = 1 << 62


@kernel()
def greedy_rows(n1, n2, d1, x):
    """Rows (n1, d1), unsorted, that keep log det(x I - E[M'M]) large; False if x is too small.

    W is the inverse of x I - E[M'M], deflated, times x - d2, in units of 2**-20.
    """
    d2 = n1 * d1 // n2
    scale = _ONE * (x - d2)
    weight = np.zeros((n2, n2))
    for c in range(n2):
        weight[c, c] = _ONE
    left = np.full(n2, d2)
    rows = np.empty((n1, d1), dtype=np.int32)
    for i in range(n1):
        m = n1 - i
        drift = _drift(weight, left)
        _choose_row(rows[i], weight, drift, left, m)
        if m > 1 and not _add_row(rows[i], weight, drift, left, m, scale):
            return rows, False
        for c in rows[i]:
            left[c] -= 1
    return rows, True


@kernel()
def _drift(weight, left):
    """W applied to the numbers of edges the right vertices still lack."""
    drift = np.zeros(left.size)
    for c in range(left.size):
        for z in range(left.size):
            drift[c] += weight[c, z] * left[z]
    return drift


@kernel()
def _choose_row(row, weight, drift, left, m):
    """Fill ``row`` one right vertex at a time, each the cheapest; those that must come, first."""
    n = left.size
    cost = np.empty(n)
    taken = left == 0
    filled = 0
    for c in range(n):
        cost[c] = weight[c, c] - 2 * drift[c]
    for c in range(n):
        if left[c] == m:
            row[filled] = c
            filled += 1
            taken[c] = True
            for z in range(n):
                cost[z] += 2 * m * weight[c, z]
    while filled < row.size:
        c = -1
        for z in range(n):
            if not taken[z] and (c < 0 or cost[z] < cost[c]):
                c = z
        row[filled] = c
        filled += 1
        taken[c] = True
        for z in range(n):
            cost[z] += 2 * m * weight[c, z]


@kernel()
def _add_row(row, weight, drift, left, m, scale):
    """Sherman-Morrison: one update for the row against its mean, one for each used-up edge."""
    n = left.size
    u = -drift
    for c in row:
        for z in range(n):
            u[z] += m * weight[c, z]
    for c in range(n):
        u[c] = np.rint(u[c] / m)
    quotient = 0.0
    for c in row:
        quotient += m * u[c]
    for c in range(n):
        quotient -= left[c] * u[c]
    denominator = scale * (m - 1) - quotient
    if denominator <= 0:
        return False
    _rank_one(weight, u, m / denominator)
    for c in row:
        column = weight[c].copy()
        _rank_one(weight, column, -1 / (scale + column[c]))
    diagonal = np.diag(weight)
    return diagonal.min() > 0 and diagonal.max() < _LARGEST


@kernel()
def _rank_one(weight, u, factor):
    for a in range(u.size):
        for b in range(u.size):
            weight[a, b] += np.rint(u[a] * u[b] * factor)


@kernel()
def _squeeze(matrix, bits):
    """Halve the matrix until its entries are at most 2**bits, then round; the halvings done."""
    largest = np.abs(matrix).max()
    factor, halvings = 1.0, 0
    while largest * factor > 2.0**bits:
        factor *= 0.5
        halvings += 1
    if halvings > 0:
        for a in range(matrix.shape[0]):
            for b in range(matrix.shape[1]):
                matrix[a, b] = np.rint(matrix[a, b] * factor)
    return halvings


@kernel()
def power(gram, trivial, bits, level):
    """X**(2**level), rounded to integers up to a power of two, for X = M'M off the all-ones vector.

    Also the trace of its square as (exponent, mantissa), which compare like the traces.
    """
    n = gram.shape[0]
    matrix = np.empty((n, n))
    for a in range(n):
        for b in range(n):
            matrix[a, b] = n * gram[a, b] - trivial
    exponent = _squeeze(matrix, bits)
    for _ in range(level):
        matrix = np.dot(matrix, matrix)
        exponent = 2 * exponent + _squeeze(matrix, bits)
    exponent *= 2
    trace = np.int64(0)
    for a in range(n):
        for b in range(n):
            trace += np.int64(matrix[a, b]) * np.int64(matrix[a, b])
    while trace >= _TOP:
        trace //= 2
        exponent += 1
    while 0 < trace < _TOP // 2:
        trace *= 2
        exponent -= 1
    return matrix, (exponent, trace)


@kernel()
def cheapest_moves(rows, member, weight):
    """For each x, y the row where exchanging x for y adds least to <W, M'M> / 2, and that least."""
    n = weight.shape[0]
    cost, who = np.full((n, n), np.inf), np.zeros((n, n), dtype=np.int64)
    pull = np.empty(n)
    for i in range(rows.shape[0]):
        pull[:] = 0
        for z in rows[i]:
            for y in range(n):
                pull[y] += weight[z, y]
        for x in rows[i]:
            for y in range(n):
                if not member[i, y]:
                    change = weight[x, x] - pull[x] + pull[y] - weight[x, y]
                    if change < cost[x, y]:
                        cost[x, y] = change
                        who[x, y] = i
    return cost, who


@kernel()
def _move(rows, member, gram, i, x, y):
    """Exchange label x of row i for y, and keep the Gram matrix up to date."""
    slot = 0
    for a in range(rows.shape[1]):
        z = rows[i, a]
        if z == x:
            slot = a
        else:
            gram[x, z] -= 1
            gram[z, x] -= 1
            gram[y, z] += 1
            gram[z, y] += 1
    rows[i, slot] = y
    member[i, x], member[i, y] = False, True


@kernel()
def _improving(cost, who):
    """Switches (i, j, x, y), row i giving x for y and row j the reverse, most downhill first."""
    n = cost.shape[0]
    change = np.empty(n * (n - 1) // 2)
    switches = np.empty((change.size, 4), dtype=np.int64)
    found = 0
    for x in range(n):
        for y in range(x):
            if cost[x, y] + cost[y, x] < 0:
                change[found] = cost[x, y] + cost[y, x]
                switches[found] = who[x, y], who[y, x], x, y
                found += 1
    return switches[np.argsort(change[:found], kind="mergesort")]


@kernel()
def _apply_disjoint(rows, member, gram, switches, batch):
    """Make the first ``batch`` switches that share no row and no label; which ones."""
    used_row = np.zeros(rows.shape[0], dtype=np.bool_)
    used_label = np.zeros(gram.shape[0], dtype=np.bool_)
    made = np.empty((batch, 4), dtype=np.int64)
    count = 0
    for i, j, x, y in switches:
        if count == batch:
            break
        if not (used_row[i] or used_row[j] or used_label[x] or used_label[y]):
            used_row[i] = used_row[j] = used_label[x] = used_label[y] = True
            _move(rows, member, gram, i, x, y)
            _move(rows, member, gram, j, y, x)
            made[count] = i, j, x, y
            count += 1
    return made[:count]


@kernel()
def descend(rows, member, gram, trivial, bits, level, batch):
    """Switch downhill on the trace of X**(2**(level + 1)) until the steepest switch fails."""
    weight, score = power(gram, trivial, bits, level)
    while batch > 0:
        cost, who = cheapest_moves(rows, member, weight)
        switches = _improving(cost, who)
        if len(switches) == 0:
            break
        while batch > 0:
            made = _apply_disjoint(rows, member, gram, switches, batch)
            new_weight, new_score = power(gram, trivial, bits, level)
            if new_score < score:
                weight, score, batch = new_weight, new_score, 2 * len(made)
                break
            for i, j, x, y in made:
                _move(rows, member, gram, i, y, x)
                _move(rows, member, gram, j, x, y)
            batch = len(made) // 2
    return score


@kernel()
def _kick(rows, member, gram, switches, state):
    """Make that many uniformly random valid switches."""
    n1, d1 = rows.shape
    while switches > 0:
        i, a = below(state, n1), below(state, d1)
        j, b = below(state, n1), below(state, d1)
        x, y = rows[i, a], rows[j, b]
        if i != j and x != y and not member[i, y] and not member[j, x]:
            _move(rows, member, gram, i, x, y)
            _move(rows, member, gram, j, y, x)
            switches -= 1


@kernel()
def polish(rows, member, gram, bits, levels, kicks, state):
    """Descend at every level, then keep each kick and new descent that ends no higher."""
    n = gram.shape[0]
    trivial = gram[0].sum()
    for level in range(levels + 1):
        score = descend(rows, member, gram, trivial, bits, level, max(1, n // 8))
    best = rows.copy(), member.copy(), gram.copy()
    for _ in range(kicks):
        _kick(rows, member, gram, 2, state)
        for level in range(1, levels + 1):
            new_score = descend(rows, member, gram, trivial, bits, level, 1)
        if new_score <= score:
            score = new_score
            best[0][:], best[1][:], best[2][:] = rows, member, gram
        else:
            rows[:], member[:], gram[:] = best


@kernel()
def relabel(rows, n2, state):
    """Permute the rows, and the labels, uniformly at random."""
    n1 = rows.shape[0]
    labels = np.arange(n2)
    for c in range(n2 - 1, 0, -1):
        other = below(state, c + 1)
        labels[c], labels[other] = labels[other], labels[c]
    for i in range(n1 - 1, -1, -1):
        j = below(state, i + 1)
        for a in range(rows.shape[1]):
            rows[i, a], rows[j, a] = rows[j, a], rows[i, a]
            rows[i, a] = labels[rows[i, a]]
