"""The errors the library raises, and the checks every public function makes at its door.

Each message names the argument, the value received, the rule it breaks and, where there is one,
the nearest value that works.
"""

from __future__ import annotations

import numbers
from math import gcd, isqrt

import psutil


class ExpanderMaskError(Exception):
    """Base class of every error the library raises on purpose."""


class InvalidInputError(ExpanderMaskError, ValueError):
    """An argument breaks a rule; the message says which and what would work."""


class InfeasibleShapeError(InvalidInputError):
    """No biregular graph of this shape exists; the message lists the nearest shapes that do."""


class NotBiregularError(InvalidInputError):
    """A mask or graph whose rows or columns do not all have the same number of entries."""


class TooLargeError(InvalidInputError):
    """The request needs more memory than is free; raised before anything is allocated."""


class NotProvedError(ExpanderMaskError, RuntimeError):
    """No proved Ramanujan graph was found within the stated number of tries."""


class FileFormatError(ExpanderMaskError, ValueError):
    """A file is truncated, altered, foreign, or written by a newer version of the library."""


class AdapterError(InvalidInputError):
    """A model cannot take, or does not have, the adapter that was asked for."""


class MissingPackageError(ExpanderMaskError, ImportError):
    """An optional package is needed and absent; the message says how to install it."""


def check_integer(name: str, value: object, *, minimum: int = 1) -> int:
    """Return ``value`` as an int, refusing bools, non-integers and values below ``minimum``."""
    if type(value) is int:
        number = value
    elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
    else:
        raise InvalidInputError(
            f"{name} must be an integer, got {value!r} ({type(value).__name__})"
        )
    if number < minimum:
        raise InvalidInputError(f"{name} must be at least {minimum}, got {_shown(number)}")
    return number


def check_real(name: str, value: object) -> float:
    """Return ``value`` as a float, refusing bools and what is no real number; NaN passes."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidInputError(
            f"{name} must be a real number, got {value!r:.80} ({type(value).__name__})"
        )
    try:
        return float(value)
    except OverflowError:
        raise InvalidInputError(
            f"{name} must be below 1e308, the largest float; got a larger {type(value).__name__}"
        ) from None


def check_size(name: str, value: object) -> int:
    """Return ``value`` as a number of vertices or a degree, in [1, 2**31)."""
    size = check_integer(name, value)
    if size >= _SIZE_LIMIT:
        raise InvalidInputError(f"{name} must be below 2**31 = {_SIZE_LIMIT}, got {_shown(size)}")
    return size


def check_edges(n1: int, d1: int) -> int:
    """The number of edges, n1 * d1, if a graph can hold as many: below 2**31."""
    edges = n1 * d1
    if edges >= _SIZE_LIMIT:
        raise InvalidInputError(
            f"n1*d1 = {edges} edges; the limit is 2**31 - 1 = {_SIZE_LIMIT - 1}"
        )
    return edges


def check_shape(n1: object, n2: object, d1: object) -> tuple[int, int, int, int]:
    """Return ``(n1, n2, d1, d2)`` if a simple biregular graph of that shape exists, else raise."""
    return _check(check_size("n1", n1), check_size("n2", n2), check_size("d1", d1), least=1)


def check_ramanujan_shape(n1: object, n2: object, d1: object) -> tuple[int, int, int, int]:
    """``check_shape`` and both degrees at least 2, as the Ramanujan property requires."""
    rows, cols, degree = check_size("n1", n1), check_size("n2", n2), check_size("d1", d1)
    _, _, _, other = _check(rows, cols, degree, least=2)
    if min(degree, other) < 2:
        raise InfeasibleShapeError(
            f"(n1, n2, d1) = ({rows}, {cols}, {degree}) gives d2 = {other}: with d1 = 1 or d2 = 1 "
            "the graph is a union of stars, and the Ramanujan property needs both degrees >= 2"
            + _what_works(rows, cols, degree, least=2)
        )
    return rows, cols, degree, other


def nearest_multiples(target: int, step: int, low: int, high: int) -> list[int]:
    """The multiples of ``step`` in [low, high] nearest ``target``, one on each side at most."""
    first, last = -(-low // step) * step, high // step * step
    if first > last:
        return []
    below = min(max(target // step * step, first), last)
    above = min(max(-(-target // step) * step, first), last)
    return sorted({below, above})


def divisors_between(product: int, low: int, high: int) -> list[int]:
    """The divisors of ``product`` in [low, high], ascending; none if it is too long to factor."""
    if product >= _FACTORABLE:
        return []
    if product >= _SIZE_LIMIT:
        from sympy import divisors  # slow to load, and seldom needed

        return [d for d in divisors(product) if low <= d <= high]
    small = [d for d in range(1, isqrt(product) + 1) if product % d == 0]
    return [d for d in sorted({*small, *(product // d for d in small)}) if low <= d <= high]


def _shown(number: int) -> str:
    """A number as text; Python refuses to print the very long ones."""
    bits = number.bit_length()
    return str(number) if bits < 256 else f"a number of {bits} bits"


_SIZE_LIMIT = 2**31
_FACTORABLE = 2**48


def _check(n1: int, n2: int, d1: int, *, least: int) -> tuple[int, int, int, int]:
    """The shape rules that hold for every biregular graph; mends keep both degrees >= least."""
    if d1 > n2:
        raise InfeasibleShapeError(
            f"d1 = {d1} exceeds n2 = {n2}: a left vertex has at most n2 distinct right neighbours"
            + _what_works(n1, n2, d1, least)
        )
    if n1 * d1 % n2:
        raise InfeasibleShapeError(
            f"n1*d1 = {n1}*{d1} = {n1 * d1} is not divisible by n2 = {n2}, so the right vertices "
            "cannot all have the same degree" + _what_works(n1, n2, d1, least)
        )
    return n1, n2, d1, n1 * d1 // n2


def _what_works(n1: int, n2: int, d1: int, least: int) -> str:
    """The nearest shapes that differ in one number and have both degrees at least ``least``."""
    degrees = nearest_multiples(d1, n2 // gcd(n1, n2), max(least, -(-least * n2 // n1)), n2)
    rows, columns = [], []
    if least <= d1:
        columns = divisors_between(n1 * d1, d1, n1 * d1 // least)
        columns = [c for c in columns if c < n2][-1:] + [c for c in columns if c > n2][:1]
        if d1 <= n2:
            step = n2 // gcd(n2, d1)
            rows = nearest_multiples(n1, step, -(-least * n2 // d1), 2 * max(n1, least * n2))
    options = [
        f"{name} = {' or '.join(map(str, values))}"
        for name, values in (("d1", degrees), ("n1", rows), ("n2", columns))
        if values
    ]
    return f"; the nearest that work: {'; '.join(options)}" if options else "; nothing near works"


_WORTH_ASKING = 2**26


def require_memory(num_bytes: int, what: str) -> None:
    """Raise `TooLargeError` if ``what`` needs more memory than the machine has free.

    Below 64 MiB the operating system is not asked: asking costs more than a small mask.
    """
    if num_bytes < _WORTH_ASKING:
        return
    free = psutil.virtual_memory().available
    if num_bytes > free:
        raise TooLargeError(
            f"{what} needs about {_gib(num_bytes)} of memory, and {_gib(free)} is free"
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"
