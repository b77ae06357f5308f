"""Which primes p and q give an LPS graph, of what shape, and which are nearest if they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

EDGE_LIMIT = 2**31
Q_LIMIT = 1024
"""Above it even p = 3 gives more than ``EDGE_LIMIT`` edges."""


def side(q: int) -> int:
    """The order of PSL_2(q), q (q**2 - 1) / 2: the number of vertices on each side."""
    return q * (q * q - 1) // 2


def edges(p: int, q: int) -> int:
    """The number of edges, p + 1 at each vertex of a side."""
    return side(q) * (p + 1)


def largest_q(n: int) -> int:
    """The largest q >= 1 for which a side has at most n >= 1 vertices, prime or not."""
    q = max(1, round(math.cbrt(2 * n)) - 1)
    while side(q + 1) <= n:
        q += 1
    return q


def is_odd_prime(n: int) -> bool:
    """Whether n is an odd prime."""
    from sympy import isprime

    return n > 2 and bool(isprime(n))


def not_odd_primes(p: int, q: int) -> str | None:
    """What keeps p and q from being distinct odd primes, in words; None if they are."""
    for name, value in (("p", p), ("q", q)):
        if not is_odd_prime(value):
            return f"{name} = {value} is not an odd prime"
    return f"p and q must differ, and both are {p}" if p == q else None


def problem(p: int, q: int) -> str | None:
    """The first hypothesis of the construction that p and q break, in words; None if none."""
    if reason := not_odd_primes(p, q):
        return reason
    if closes(p, q, 1):
        return f"some of the {p + 1} generators are equal modulo {q}, so edges would be parallel"
    return None


def works(p: int, q: int) -> bool:
    """Whether there is a simple X^{p,q} of fewer than 2**31 edges."""
    return edges(p, q) < EDGE_LIMIT and problem(p, q) is None


def closes(p: int, q: int, t: int) -> bool:
    """Whether X^{p,q} has a closed walk of length 2 t without backtracking; see `lps_girth`."""
    power, square = p**t, q * q
    candidates = range(1, (power - 1) // square + 1)
    return any(_is_three_squares(m * (power - m * square)) for m in candidates)


def _is_three_squares(n: int) -> bool:
    """Whether n > 0 is a sum of three squares: not 4**a (8 b + 7), by Legendre's theorem."""
    while n % 4 == 0:
        n //= 4
    return n % 8 != 7


def mends(p: int, q: int) -> str:
    """The nearest p for this q, and q for this p, in words; a nearest pair if there is neither."""
    alone = {
        "p": _nearest_p(p, q),
        "q": _nearest(q - 1, q + 1, Q_LIMIT, lambda other: works(p, other)),
    }
    options = [f"{name} = {' or '.join(map(str, found))}" for name, found in alone.items() if found]
    if not options:
        other = _nearest(q - 1, q + 1, Q_LIMIT, is_odd_prime)[-1]
        options = [f"p = {_nearest_p(p, other)[-1]} and q = {other}"]
    return f"the nearest that work: {'; '.join(options)}"


def nearest_shapes(n: int, d1: int) -> str:
    """The shapes of LPS graphs of about n vertices a side and about degree d1, in words."""
    q, p = largest_q(n), d1 - 1
    exact = side(q) == n and is_odd_prime(q)
    shapes = {
        (side(near), other + 1)
        for near in ([q] if exact else _nearest(q, q + 1, Q_LIMIT, is_odd_prime))
        for other in ([p] if works(p, near) else _nearest_p(p, near))
    }
    ordered = sorted(shapes, key=lambda shape: (abs(shape[0] - n), abs(shape[1] - d1), shape))
    return "the nearest: " + ", ".join(f"({m}, {m}, {degree})" for m, degree in ordered)


def smaller(p: int, q: int) -> Iterator[int]:
    """The q below ``q`` that work with p, largest first."""
    return (other for other in range(min(q - 1, Q_LIMIT), 2, -1) if works(p, other))


def _nearest_p(p: int, q: int) -> list[int]:
    """The nearest below and above p that work with q."""
    n = side(q)
    limit = min(n, EDGE_LIMIT // n) if n else 0  # a simple graph has p + 1 <= n
    return _nearest(p - 1, p + 1, limit, lambda other: works(other, q))


def _nearest(low: int, high: int, limit: int, suits: Callable[[int], bool]) -> list[int]:
    """The first from ``low`` down to 3, and the first from ``high`` up to ``limit``, that suit."""
    ways = range(min(low, limit), 2, -1), range(high, limit + 1)
    return [found for way in ways if (found := next(filter(suits, way), None))]
