"""Tier 1: a floating-point Cholesky factorisation that proves an eigenvalue bound.

The test shows that every eigenvalue of an integer Gram matrix N on the space orthogonal to the
all-ones vector is at most c. It factors P = c I - N + alpha J after lowering the diagonal by a
margin that covers all rounding errors of the factorisation; running to completion is the proof.
Derivation and audit of the margin: ``docs/theory/certificates.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expandermask.threads import one_blas_thread

_UNIT = 2.0**-53
_SAFETY = 4.0
_UNDERFLOW = 2.0**-900


def rounding_margin(n: int, trace: float) -> float:
    """How far below semidefinite an n x n matrix whose float Cholesky completes can be.

    With gamma = (n + 2) u / (1 - (n + 2) u), u = 2**-53, the factorisation of a symmetric A with
    diagonal sum ``trace`` can complete only if A + gamma / (1 - gamma) trace I is positive
    semidefinite. The returned margin is four times that, plus a term far above any underflow.
    """
    gamma = (n + 2) * _UNIT / (1 - (n + 2) * _UNIT)
    return _SAFETY * gamma / (1 - gamma) * trace + _UNDERFLOW


def proves_at_most(gram: NDArray[np.int64], trivial: int, c: float) -> bool:
    """Whether all eigenvalues of ``gram`` orthogonal to the all-ones vector are proved <= c.

    Parameters
    ----------
    gram : int64 array, shape (n, n)
        Symmetric integer matrix with all row sums equal to ``trivial``, entries below 2**52.
    trivial : int
        The eigenvalue of the all-ones vector. With 0, whatever the row sums, all eigenvalues are
        meant: nothing is then added to the matrix.
    c : float
        The bound to prove.

    Returns
    -------
    bool
        True is a proof. False says nothing: the bound may fail, or hold by less than the margin.

    Notes
    -----
    n**3 / 3 flops, 16 n**2 bytes with the Gram matrix; LAPACK's dpotrf, in place, on one BLAS
    thread. It is called through scipy, whose LAPACK factors three times faster than numpy's.
    """
    from scipy.linalg.lapack import dpotrf

    n = gram.shape[0]
    shifted = np.empty((n, n))
    np.subtract(-(-trivial // n), gram, out=shifted)
    diagonal = np.einsum("ii->i", shifted)
    margin = rounding_margin(n, float(diagonal.sum()) + n * c)
    diagonal[:] = np.nextafter(diagonal + np.nextafter(c - margin, -np.inf), -np.inf)
    with one_blas_thread(n):
        factor, failed = dpotrf(shifted.T, lower=1, clean=0, overwrite_a=1)
    return not failed and bool(np.isfinite(np.einsum("ii->i", factor)).all())
