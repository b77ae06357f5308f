"""Numba kernel of the interlacing construction: one row's children, at given quadrature nodes.

Plain complex loops in a fixed order (no BLAS), all state passed in as arguments. The slow, obvious
version is in ``tests/oracles/interlacing.py``.
"""

from __future__ import annotations

import numpy as np

from expandermask.compiling import kernel


@kernel()
def _invert(re, im):
    """Invert re + i im in place by Gauss-Jordan without pivoting; return log det."""
    n = re.shape[0]
    log_det = 0j
    for p in range(n):
        pivot = complex(re[p, p], im[p, p])
        log_det += np.log(pivot)
        inverse = 1.0 / pivot
        re[p, p], im[p, p] = 1.0, 0.0
        for j in range(n):
            x, y = re[p, j], im[p, j]
            re[p, j] = x * inverse.real - y * inverse.imag
            im[p, j] = x * inverse.imag + y * inverse.real
        for i in range(n):
            if i != p:
                x, y = re[i, p], im[i, p]
                re[i, p], im[i, p] = 0.0, 0.0
                for j in range(n):
                    re[i, j] -= x * re[p, j] - y * im[p, j]
                    im[i, j] -= x * im[p, j] + y * re[p, j]
    return log_det


@kernel()
def _fill(re, im, w, sigma, y, fixed, first, second):
    """Write w - fixed - first / sigma - second / y into re + i im."""
    n = fixed.shape[0]
    u, v = 1.0 / sigma, 1.0 / y
    for i in range(n):
        for j in range(n):
            re[i, j] = -fixed[i, j] - u.real * first[i, j] - v.real * second[i, j]
            im[i, j] = -u.imag * first[i, j] - v.imag * second[i, j]
        re[i, i] += w.real
        im[i, i] += w.imag


@kernel()
def child_factors(w, sigma, y, fixed, first, second, counts, step):
    """Log det K at each node, and by what each child multiplies it.

    K = w - fixed - first / sigma - second / y, complex symmetric (n, n). With m = sum(counts) >= 2,
    mu = m / (m-1) and g_c = e_c - counts / m, child c turns K into
    K - mu (step + g_c)(step + g_c)' + (mu / y) g_c g_c', whose determinant is det K times the
    returned factor: complex128 (nodes,) and (nodes, n).
    """
    nodes, n = w.size, fixed.shape[0]
    m = counts.sum()
    mu = m / (m - 1.0)
    re, im = np.empty((n, n)), np.empty((n, n))
    log_det = np.empty(nodes, dtype=np.complex128)
    factors = np.empty((nodes, n), dtype=np.complex128)
    on_counts = np.empty(n, dtype=np.complex128)
    on_step = np.empty(n, dtype=np.complex128)
    for b in range(nodes):
        _fill(re, im, w[b], sigma[b], y[b], fixed, first, second)
        log_det[b] = _invert(re, im)
        count_count, count_step, step_step = 0j, 0j, 0j
        for i in range(n):
            on_counts[i], on_step[i] = 0j, 0j
            for j in range(n):
                entry = complex(re[i, j], im[i, j])
                on_counts[i] += entry * counts[j]
                on_step[i] += entry * step[j]
            count_count += counts[i] * on_counts[i]
            count_step += counts[i] * on_step[i]
            step_step += step[i] * on_step[i]
        nu = mu / y[b]
        for c in range(n):
            gg = complex(re[c, c], im[c, c]) - 2 * on_counts[c] / m + count_count / m**2
            sg = on_step[c] - count_step / m
            both, mixed = step_step + 2 * sg + gg, sg + gg
            factors[b, c] = 1 - mu * both + nu * gg - mu * nu * (both * gg - mixed * mixed)
    return log_det, factors
