"""The limiting density of singular values: the biregular Kesten-McKay law of Godsil and Mohar.

For graphs of degrees (d1, d2) with few short cycles, random ones for instance, the singular values
of the biadjacency matrix are distributed in the limit like the spectrum of the infinite biregular
tree. Derivation: ``docs/theory/density.md``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expandermask.errors import check_integer


def kesten_mckay(d1: int, d2: int, sigma: ArrayLike) -> NDArray[np.float64]:
    """The limiting density of the min(n1, n2) singular values of large (d1, d2) graphs.

    Between l = abs(sqrt(d1 - 1) - sqrt(d2 - 1)) and the Ramanujan bound rho it is

        max(d1, d2) sqrt((rho**2 - s**2)(s**2 - l**2)) / (pi s (d1 d2 - s**2)),

    and 0 elsewhere. It integrates to 1: the singular values have no point mass. (The larger side
    has max(n1, n2) - min(n1, n2) vertices more, so its Gram matrix and the adjacency matrix have
    eigenvalues 0 in the proportions 1 - min(d1, d2) / max(d1, d2) and
    abs(d1 - d2) / (d1 + d2).)

    Parameters
    ----------
    d1, d2 : int
        The degrees, at least 2.
    sigma : array of float, any shape
        Where to evaluate the density.

    Returns
    -------
    float64 array of the shape of ``sigma``.

    Raises
    ------
    InvalidInputError
        A degree is below 2.

    Notes
    -----
    Source: Godsil and Mohar, "Walk generating functions and spectral measures of infinite graphs",
    Linear Algebra Appl. 107 (1988); for d1 = d2, Kesten (1959) and McKay (1981).

    Examples
    --------
    >>> from expandermask.certificates.density import kesten_mckay
    >>> kesten_mckay(3, 3, [0.0, 1.0, 2.5, 3.0]).round(4)
    array([0.3001, 0.3158, 0.4594, 0.    ])
    """
    d1, d2 = check_integer("d1", d1, minimum=2), check_integer("d2", d2, minimum=2)
    s = np.asarray(sigma, dtype=np.float64)
    low = abs(math.sqrt(d1 - 1) - math.sqrt(d2 - 1))
    high = math.sqrt(d1 - 1) + math.sqrt(d2 - 1)
    inside = (s >= low) & (s < high)
    square = np.where(inside, s * s, 1.0)
    lower = 1 - np.divide(low**2, square, out=np.zeros_like(square), where=low > 0)
    root = np.sqrt(np.maximum((high**2 - square) * lower, 0.0))
    density: NDArray[np.float64] = np.where(
        inside, max(d1, d2) * root / (math.pi * (d1 * d2 - square)), 0.0
    )
    return density
