"""Averages over the matchings still to come, as contour sums: one functional of a polynomial.

What the later matchings make of an expected characteristic polynomial p is the number L(p), linear
in p, with L(x**i) known exactly. A circle through the saddle of the integrand turns it into a sum
of values of p in which nothing cancels. Formulas: ``docs/theory/interlacing.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import NotProvedError

if TYPE_CHECKING:
    from flint import fmpq, fmpq_poly

Reals = NDArray[np.float64]
Complexes = NDArray[np.complex128]

DROP = 1e-7
"""Nodes are left out whose share of the sum is estimated to be below this."""
_CENTRES = 64
_DYADIC = 256
_CANCEL = 4.0
_BITS = 300


@dataclass(frozen=True)
class Contour:
    """A linear functional of polynomials p: the sum of exp(log_weight) p(w), its real part.

    The first node is real and right of all roots: there the contour crosses a saddle. The others
    are the upper half of a circle through it, each counted twice for its conjugate.
    """

    w: Complexes
    log_weight: Complexes
    matter: int
    """How many of the nodes matter, by estimate."""
    radius: float


def value_at(x: float) -> Contour:
    """The functional p(x)."""
    return Contour(np.array([x + 0j]), np.array([0j]), 1, 0.0)


def contour_of(moments: list[fmpq], expected: fmpq_poly) -> Contour:
    """A circle for the functional L(w**i) = moments[i], made for polynomials like ``expected``.

    Its radius is taken so that it passes through the saddle of the integrand; of the centres, the
    one for which the fewest nodes matter, and then the one with the largest radius.
    """
    roots = np.sort([float(r.real.mid()) for r, _ in expected.numer().complex_roots()])
    centres = np.round(2 * roots[-1] * _DYADIC * np.arange(1, _CENTRES) / _CENTRES) / _DYADIC
    circles = [_circle(moments, float(centre), roots) for centre in centres]
    usable = [circle for circle in circles if circle is not None]
    if not usable:
        raise NotProvedError("no contour was found on which the later matchings can be averaged")
    return min(usable, key=lambda circle: (circle.matter, -circle.radius))


def _circle(moments: list[fmpq], centre: float, roots: Reals) -> Contour | None:
    """The circle about ``centre`` through the saddle, or None if terms cancel on it."""
    n = len(moments) - 1
    about = _moments_about(moments, centre)
    least = max(roots[-1] - centre, 0.0) + 2 * (roots[-1] - roots[0]) / n + 1 / _DYADIC
    radii = np.round(np.linspace(least, 2 * roots[-1], 120) * _DYADIC) / _DYADIC
    kernel = (_floats(about) / radii[:, None] ** np.arange(n + 1)).sum(axis=1)
    radii, kernel = radii[kernel > 0], kernel[kernel > 0]
    if radii.size == 0:
        return None
    height = np.log(kernel) + np.log(centre + radii[:, None] - roots).sum(axis=1)
    radius = float(radii[np.argmin(height)])
    size = (n + 1) | 1  # odd, so that only the saddle is on the axis
    index = np.arange(size // 2 + 1)
    w = centre + radius * np.exp(2j * np.pi * index / size)
    log_weight = _log_weights(about, radius, size)
    terms = log_weight + np.log(w[:, None] - roots).sum(axis=1)
    share = terms.real - terms.real.max()
    terms = np.exp(terms - terms.real.max()) * np.where(index == 0, 1, 2)
    if np.abs(terms).sum() > _CANCEL * abs(terms.real.sum()):
        return None
    matter = int((share > np.log(DROP)).sum())
    return Contour(w, log_weight, matter, radius)


def _moments_about(moments: list[fmpq], centre: float) -> list[fmpq]:
    """L((w - centre)**i), exactly."""
    from flint import fmpq

    c, shifted = fmpq(*centre.as_integer_ratio()), list(moments)
    for start in range(1, len(shifted)):
        for i in range(len(shifted) - 1, start - 1, -1):
            shifted[i] -= c * shifted[i - 1]
    return shifted


def _log_weights(about: list[fmpq], radius: float, size: int) -> Complexes:
    """Logs of the weights of the nodes centre + radius u, u running over the upper unit roots.

    The weights are the discrete Fourier transform of the moments; they range over many orders of
    magnitude and each must be right relative to itself, so the sums are taken with 300 bits.
    """
    from flint import acb, acb_poly, arb, ctx, fmpq

    r = fmpq(*radius.as_integer_ratio())
    with ctx.workprec(_BITS):
        series = acb_poly([acb(arb(x / r**i)) / size for i, x in enumerate(about)])
        logs = [series(acb(arb(fmpq(-2 * i, size))).exp_pi_i()).log() for i in range(size // 2 + 1)]
        return np.array([complex(x) for x in logs])


def _floats(values: list[fmpq]) -> Reals:
    return np.array([int(x.p) / int(x.q) for x in values])
