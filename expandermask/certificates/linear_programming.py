"""The linear-programming limit, in closed form: an eigenvalue of an ideal ball of walks.

Around any vertex the nonbacktracking walks of length j number n_j, whatever the graph. A graph in
which they reach as many vertices as there are, shell after shell until one side is used up, need
not exist, but its second eigenvalue can be computed, and no graph of the shape has a smaller one.
It is the optimum of the linear program on nonbacktracking walks (Nozaki, "Linear programming bounds
for regular graphs", 2015; Cioaba, Koolen, Nozaki and Vermette, "Maximizing the order of a regular
graph of given valency and second eigenvalue", 2016, section 3 for bipartite graphs), here for all
biregular shapes, exact, and proved in ``docs/theory/limits.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from expandermask.certificates.codegrees import GRID

_MOST_SHELLS = 128


@dataclass(frozen=True)
class _Chain:
    """The two-step walk on the shells of one side, out to the last: rates of a birth-death chain.

    ``forward[i]`` leads from shell i to the next on this side; back lead single steps, but
    ``into / left`` from the last shell. All rows, with what stays, sum to ``total``.
    """

    forward: list[int]
    into: int
    """Edges that arrive at the last shell."""
    left: int
    """Vertices in the last shell: all that are left on its side."""
    total: int

    def eigenvalue_is_below(self, z: int) -> bool:
        """Whether the second eigenvalue is below z / GRID, decided in integers.

        The differences of an eigenvector along the shells obey a tridiagonal matrix D with
        positive products beside the diagonal; z I - D has positive leading minors exactly for z
        above all eigenvalues of D (Sylvester). The last row is multiplied by ``left``.
        """
        before, minor, last = 0, 1, len(self.forward) - 1
        for i, forward in enumerate(self.forward):
            rate, scale = (self.into, self.left) if i == last else (1, 1)
            entry = scale * (z - (self.total - forward) * GRID) + rate * GRID
            beside = scale * forward * GRID**2 if i else 0
            before, minor = minor, entry * minor - beside * before
            if minor <= 0:
                return False
        return True


def walk_limit(v: int, w: int, k: int, m: int) -> Fraction:
    """The linear-programming limit on sigma_2**2, from a root among the v vertices of degree k.

    Parameters
    ----------
    v, w, k, m : int
        Vertices on the root's side and on the other, and their degrees, all at least 2, with
        v k = w m.

    Returns
    -------
    Fraction
        The second eigenvalue of the ideal ball, rounded down to a multiple of 2**-32.

    Notes
    -----
    O(log v) shells and some fifty tests of as many big integers each: about 0.03 ms.

    Examples
    --------
    >>> walk_limit(15, 15, 3, 3)  # the Tutte-Coxeter graph attains it
    Fraction(4, 1)
    >>> [round(float(walk_limit(512, 512, d, d)) ** 0.5, 3) for d in range(3, 9)]
    [2.658, 3.051, 3.335, 3.562, 3.765, 3.88]
    """
    chain = _ideal_chain(v, w, k, m)
    low, high = 0, chain.total * GRID
    while high - low > 1:
        middle = (low + high) // 2
        if chain.eigenvalue_is_below(middle):
            high = middle
        else:
            low = middle
    return Fraction(low, GRID)


def _ideal_chain(v: int, w: int, k: int, m: int) -> _Chain:
    """Fill shells with as many vertices as walks can reach, until a side cannot hold the next.

    Any earlier shell may be the last, and is where cycles (k = m = 2) stop growing in number.
    """
    degree, left = (k, m), [v - 1, w]
    shell, walks = 1, k
    while walks <= left[shell % 2] and shell < _MOST_SHELLS:
        left[shell % 2] -= walks
        walks *= degree[shell % 2] - 1
        shell += 1
    side = shell % 2
    forward = [(degree[side] - 1) * (degree[1 - side] - 1)] * (shell // 2)
    if side == 0:
        forward[0] = k * (m - 1)
    return _Chain(forward, walks, left[side], k * m)
