"""Arithmetic of the finite field F_q, as tables: small, exact, and made from nothing but integers.

The element c_0 + c_1 x + ... + c_{k-1} x**(k-1) of F_p[x] / (f), q = p**k, has the number
c_0 + c_1 p + ... + c_{k-1} p**(k-1). The modulus f is the first one for which the powers of x run
through all q - 1 nonzero classes; every such class is then a unit, so the ring is the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, product
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError, check_integer, check_size

Table = NDArray[np.int64]


@dataclass(frozen=True)
class FiniteField:
    """The field of order q; elements are the integers 0 .. q - 1, zero is 0 and one is 1."""

    q: int
    add: Table
    """Shape (q, q): ``add[a, b]`` is a + b."""
    mul: Table
    """Shape (q, q): ``mul[a, b]`` is a b."""
    neg: Table
    """Shape (q,): ``neg[a]`` is -a."""
    powers: Table
    """Shape (q - 1,): the powers g**0, g**1, ... of one primitive element."""

    def power(self, exponent: int) -> Table:
        """The map a -> a**exponent as a table of shape (q,), exponent >= 1."""
        image = np.zeros(self.q, dtype=np.int64)
        image[self.powers] = self.powers[np.arange(self.q - 1) * exponent % (self.q - 1)]
        return image


def finite_field(q: int) -> FiniteField:
    """The field of prime power order ``q``; O(q**2) time and 16 q**2 bytes."""
    split = prime_power(q)
    assert split is not None
    p, k = split
    weights = p ** np.arange(k)
    digits = np.arange(q)[:, None] // weights % p
    powers = np.array(_primitive_powers(p, k)) @ weights
    logs = np.zeros(q, dtype=np.int64)
    logs[powers] = np.arange(q - 1)
    add = sum(np.add.outer(d, d) % p * w for d, w in zip(digits.T, weights, strict=True))
    mul = powers[np.add.outer(logs, logs) % (q - 1)]
    mul[0] = mul[:, 0] = 0
    return FiniteField(q, add, mul, -digits % p @ weights, powers)


def check_prime_power(name: str, value: object) -> int:
    """Return ``value`` if it is a prime power, else raise and name the nearest ones."""
    q = check_integer(name, value, minimum=2)
    check_size(name, q)
    if prime_power(q) is None:
        below = next(n for n in count(q - 1, -1) if prime_power(n))
        above = next(n for n in count(q + 1) if prime_power(n))
        raise InvalidInputError(
            f"{name} must be a prime power, got {q}; the nearest are {below} and {above}"
        )
    return q


def prime_power(q: int) -> tuple[int, int] | None:
    """``(p, k)`` with q = p**k, k >= 1, or None where there are none. O(sqrt q)."""
    if q < 2:
        return None
    p = next((d for d in range(2, isqrt(q) + 1) if q % d == 0), q)
    k = 0
    while q % p == 0:
        q //= p
        k += 1
    return (p, k) if q == 1 else None


def _primitive_powers(p: int, k: int) -> list[tuple[int, ...]]:
    """The powers of x modulo the first x**k - (c_0 + ... + c_{k-1} x**(k-1)) with x primitive.

    For k = 1 the modulus is x - c_0, and x is the number c_0.
    """
    one = (1, *(0,) * (k - 1))
    for c in product(range(p), repeat=k):
        if c[0] == 0:  # x would divide zero
            continue
        powers = [one]
        while (power := _times_x(powers[-1], c, p)) != one:
            powers.append(power)
        if len(powers) == p**k - 1:
            return powers
    raise AssertionError("every finite field has a primitive element")


def _times_x(a: tuple[int, ...], c: tuple[int, ...], p: int) -> tuple[int, ...]:
    """x a, with x**k replaced by c."""
    shifted = (0, *a[:-1])
    return tuple((s + a[-1] * t) % p for s, t in zip(shifted, c, strict=True))
