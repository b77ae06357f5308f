"""Gram matrices of a gated two-layer ReLU network: the theory of DiffoRA, and what it assumes.

The paper (section 3.2) compares a network of pretrained weights w_0 whose change w is gated,
w_0 + Gamma w with w ~ N(0, I), with the one where Gamma = I. Its matrix is

    H_ij = x_i.x_j P[(w_0 + Gamma w).x_i >= 0, (w_0 + Gamma w).x_j >= 0],

and its theorems say that the larger lambda_min(H), the faster the training and the better the bound
on the test loss. They assume that the matrix of these probabilities less that of Gamma = I is
positive semidefinite; `compare_gates` tells for given data.

(w_0 + Gamma w).x_i and (w_0 + Gamma w).x_j are two normal variables, so every entry has a closed
form, by Owen's T function. Without w_0 and gates it is the arc-cosine kernel of degree 0:
x_i.x_j (pi - angle_ij) / (2 pi).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, owens_t

from expandermask.errors import InvalidInputError, check_integer, check_real
from expandermask.graphs.random import RandomState, draw_seed
from expandermask.tables import Tabled, text_table

Floats = NDArray[np.float64]
_CONFIDENCE = 0.95
_BATCHES = 40


def gram_matrix(
    x: ArrayLike, *, gates: ArrayLike | None = None, w0: ArrayLike | None = None
) -> Floats:
    """H in closed form: float64, shape (n, n).

    Parameters
    ----------
    x : array, shape (n, d)
        Inputs in rows.
    gates : array, shape (d,), optional
        The diagonal of Gamma; ones without it.
    w0 : array, shape (d,), optional
        Pretrained weights; zeros without it.

    Raises
    ------
    InvalidInputError
        Shapes that do not fit, or numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.allocation.gram import gram_matrix
    >>> gram_matrix(np.eye(2)).round(3).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    rows, diagonal, weights = _checked(x, gates, w0)
    product: Floats = rows @ rows.T
    return product * _both_active(rows, diagonal, weights)


def activation_matrix(
    x: ArrayLike, *, gates: ArrayLike | None = None, w0: ArrayLike | None = None
) -> Floats:
    """The probabilities in H, that both i and j are active: the paper's I^(Gamma w)."""
    return _both_active(*_checked(x, gates, w0))


@dataclass(frozen=True)
class EstimatedGram:
    """H by Monte Carlo."""

    matrix: Floats
    """The mean over draws of w: shape (n, n)."""
    standard_error: Floats
    """Of every entry."""
    least_eigenvalue: float
    interval: tuple[float, float]
    """95 %, for the least eigenvalue of H."""


def estimate_gram(
    x: ArrayLike,
    *,
    gates: ArrayLike | None = None,
    w0: ArrayLike | None = None,
    samples: int = 10_000,
    rng: RandomState = None,
) -> EstimatedGram:
    """H from draws of w, as one would where there is no closed form.

    The least eigenvalue of a mean of matrices is on average below that of their expectation, so the
    interval is that of a jackknife over 40 batches of draws, which takes that bias off: mean and
    deviation of the pseudo-values, by Student's t.

    Parameters
    ----------
    x, gates, w0
        As for `gram_matrix`.
    samples : int
        Draws of w, at least 40. What is left over of 40 equal batches is not drawn.
    rng : None, int or numpy.random.Generator

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.allocation.gram import estimate_gram, gram_matrix
    >>> x = np.random.default_rng(0).normal(size=(5, 8))
    >>> least = np.linalg.eigvalsh(gram_matrix(x))[0]
    >>> low, high = estimate_gram(x, rng=0).interval
    >>> bool(low < least < high)
    True
    """
    rows, diagonal, weights = _checked(x, gates, w0)
    size = check_integer("samples", samples, minimum=_BATCHES) // _BATCHES
    generator, product = np.random.default_rng(draw_seed(rng)), rows @ rows.T
    batches = np.empty((_BATCHES, len(rows), len(rows)))
    for i in range(_BATCHES):
        w = weights + diagonal * generator.standard_normal((size, rows.shape[1]))
        active = (w @ rows.T >= 0).astype(np.float64)
        batches[i] = active.T @ active / size
    share = batches.mean(axis=0)
    error = np.sqrt(share * (1 - share) / (size * _BATCHES))
    middle, interval = _jackknife(product * batches)
    return EstimatedGram(product * share, np.abs(product) * error, middle, interval)


@dataclass(frozen=True)
class GramComparison(Tabled):
    """What gates do to the least eigenvalue, and whether the theorem's assumption holds."""

    gated: float
    """lambda_min of H with gates."""
    full: float
    """lambda_min of H with all gates 1."""
    margin: float
    """The least eigenvalue of I^(Gamma w) - I^w: theorem 2 assumes that it is not negative."""
    rounding: float
    """What the margin may be off by in floating point: n eps times the largest entries."""

    @property
    def assumption_holds(self) -> bool | None:
        """Whether the margin is not negative; None where rounding leaves it open."""
        return None if abs(self.margin) <= self.rounding else self.margin > 0

    def rows(self) -> list[tuple[str, str]]:
        """The comparison as names and values."""
        verdict = {True: "yes", False: "no", None: "open: zero to rounding"}
        return [
            ("lambda_min with gates", f"{self.gated:.4g}"),
            ("lambda_min without", f"{self.full:.4g}"),
            ("least eigenvalue of I_Gamma - I", f"{self.margin:.4g}"),
            ("theorem 2's assumption holds", verdict[self.assumption_holds]),
        ]

    def __str__(self) -> str:
        return text_table(self.rows())


def compare_gates(x: ArrayLike, gates: ArrayLike, *, w0: ArrayLike | None = None) -> GramComparison:
    """Least eigenvalues with gates and without, and the assumption of DiffoRA's theorem 2.

    The assumption is hard to meet. A matrix with a negative entry on its diagonal is not positive
    semidefinite, and neither is one with a zero there and anything else beside it. The diagonal of
    I^(Gamma w) is Phi(w_0.x_i / ||Gamma x_i||): without w_0 it is 1/2 whatever the gates, so the
    assumption holds only where they change nothing; gates of 0 or 1 push it down for every input
    with w_0.x_i < 0 that they touch.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.allocation.gram import compare_gates
    >>> x = np.random.default_rng(0).normal(size=(5, 8))
    >>> compare_gates(x, [1, 1, 1, 1, 0, 0, 0, 0]).assumption_holds
    False
    """
    with_gates, without = activation_matrix(x, gates=gates, w0=w0), activation_matrix(x, w0=w0)
    n = len(without)
    return GramComparison(
        gated=_least(gram_matrix(x, gates=gates, w0=w0)),
        full=_least(gram_matrix(x, w0=w0)),
        margin=_least(with_gates - without),
        rounding=8 * n * float(np.finfo(np.float64).eps),
    )


def generalisation_bound(
    gram: ArrayLike, y: ArrayLike, *, delta: float, constant: float = 1.0
) -> tuple[float, float]:
    """Theorem 3: C sqrt(q / N) + sqrt(log(1 / delta) / N), for q = y' H^-1 y and y'y / lambda_min.

    Constants are not given in the paper, so what can be used is how it scales. The second is never
    the smaller. Infinite where H is singular to rounding.

    Raises `InvalidInputError` unless ``gram`` is (N, N), ``y`` (N,), and 0 < delta <= 1/e.

    Examples
    --------
    >>> import math
    >>> from expandermask.allocation.gram import generalisation_bound
    >>> generalisation_bound([[2, 0], [0, 1]], [2, 0], delta=math.exp(-1))  # 1 + 1/sqrt(2) at first
    (1.7071067811865475, 2.121320343559643)
    """
    h, targets = np.asarray(gram, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if h.ndim != 2 or h.shape != (len(targets), len(targets)):
        raise InvalidInputError(
            f"gram must be (N, N) for y of (N,), got {h.shape}, {targets.shape}"
        )
    delta = check_real("delta", delta)
    if not 0 < delta <= math.exp(-1):
        raise InvalidInputError(f"delta must lie in (0, 1/e], got {delta!r}")
    values, vectors = np.linalg.eigh(h)
    if values[0] <= len(h) * np.finfo(np.float64).eps * values[-1]:
        return math.inf, math.inf
    n, chance = len(targets), math.sqrt(math.log(1 / delta) / len(targets))
    exact = float(((vectors.T @ targets) ** 2 / values).sum())
    loose = float(targets @ targets / values[0])
    return constant * math.sqrt(exact / n) + chance, constant * math.sqrt(loose / n) + chance


def _both_active(x: Floats, gates: Floats, w0: Floats) -> Floats:
    """P[u_i >= 0, u_j >= 0] for u = (w_0 + Gamma w).x, jointly normal."""
    gated, mean = x * gates, x @ w0
    deviation = np.linalg.norm(gated, axis=1)
    moves = deviation > 0
    h = np.where(mean >= 0, np.inf, -np.inf)  # an input that no gate lets through is sure
    h[moves] = mean[moves] / deviation[moves]
    unit = gated / np.where(moves, deviation, 1)[:, None]
    correlation = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(correlation, 1)
    return _orthant(h[:, None], h[None, :], correlation)


def _orthant(h: Floats, k: Floats, rho: Floats) -> Floats:
    """P[X <= h, Y <= k] of a standard normal pair with correlation rho, by Owen's T (1956).

    Where one of the bounds is infinite, or rho is 1 or -1, by what is left of it.
    """
    h, k, rho = np.broadcast_arrays(h, k, rho)
    p, q = ndtr(h), ndtr(k)
    found = np.where(rho >= 1, np.minimum(p, q), np.maximum(p + q - 1, 0))
    inner = np.isfinite(h) & np.isfinite(k)
    found = np.asarray(np.where(inner, found, p * q), dtype=np.float64)  # or a bound decides alone
    free = inner & (np.abs(rho) < 1)
    found[free] = _free_orthant(h[free], k[free], rho[free])
    return found


def _free_orthant(h: Floats, k: Floats, rho: Floats) -> Floats:
    root = np.sqrt((1 - rho) * (1 + rho))
    zero = (h == 0) & (k == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (k - rho * h) / (h * root), (h - rho * k) / (k * root)
    # T(0, a) = atan(a) / (2 pi), with a infinite where only one bound is zero.
    opposite = np.where((h * k < 0) | ((h * k == 0) & (h + k < 0)), 0.5, 0.0)
    found = 0.5 * (ndtr(h) + ndtr(k)) - owens_t(h, first) - owens_t(k, second) - opposite
    found = np.where(zero, 0.25 + np.arcsin(rho) / (2 * np.pi), found)
    return np.asarray(found, dtype=np.float64)


def _jackknife(batches: Floats) -> tuple[float, tuple[float, float]]:
    """Least eigenvalue of the expectation of equal batches of matrices, with its interval."""
    from scipy.stats import t

    n, mean = len(batches), batches.mean(axis=0)
    whole = _least(mean)
    left = np.array([_least((n * mean - own) / (n - 1)) for own in batches])
    pseudo = n * whole - (n - 1) * left
    middle, error = float(pseudo.mean()), float(pseudo.std(ddof=1)) / math.sqrt(n)
    half = float(t.ppf((1 + _CONFIDENCE) / 2, n - 1)) * error
    return middle, (middle - half, middle + half)


def _least(matrix: Floats) -> float:
    return float(np.linalg.eigvalsh(matrix)[0])


def _checked(
    x: ArrayLike, gates: ArrayLike | None, w0: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise InvalidInputError(f"x must be a non-empty (n, d) array, got shape {rows.shape}")
    d = rows.shape[1]
    diagonal = np.ones(d) if gates is None else np.asarray(gates, dtype=np.float64)
    weights = np.zeros(d) if w0 is None else np.asarray(w0, dtype=np.float64)
    for name, vector in (("gates", diagonal), ("w0", weights)):
        if vector.shape != (d,):
            raise InvalidInputError(f"{name} must have shape ({d},), as x has, got {vector.shape}")
    for name, array in (("x", rows), ("gates", diagonal), ("w0", weights)):
        if not np.isfinite(array).all():
            raise InvalidInputError(f"{name} must be finite")
    return rows, diagonal, weights
