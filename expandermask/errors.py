"""The errors the library raises, and the checks every public function makes at its door.

Each message names the argument, the value received, the rule it breaks and, where there is one,
the nearest value that works.
"""

from __future__ import annotations

import numbers
from math import gcd

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
        raise InvalidInputError(f"{name} must be at least {minimum}, got {number}")
    return number


def check_shape(n1: object, n2: object, d1: object) -> tuple[int, int, int, int]:
    """Return ``(n1, n2, d1, d2)`` if a simple biregular graph of that shape exists, else raise."""
    rows, cols = check_integer("n1", n1), check_integer("n2", n2)
    degree = check_integer("d1", d1)
    if rows * degree % cols:
        raise InfeasibleShapeError(_indivisible(rows, cols, degree))
    if degree > cols:
        raise InfeasibleShapeError(
            f"d1={degree} exceeds n2={cols}: a left vertex has at most n2 distinct right "
            f"neighbours; the nearest d1 that works is {cols}"
        )
    return rows, cols, degree, rows * degree // cols


def check_ramanujan_shape(n1: object, n2: object, d1: object) -> tuple[int, int, int, int]:
    """``check_shape`` and both degrees at least 2, as the Ramanujan property requires."""
    rows, cols, degree, other = check_shape(n1, n2, d1)
    if min(degree, other) < 2:
        step = cols // gcd(rows, cols)
        works = [d for d in range(step, cols + 1, step) if d >= 2 and rows * d // cols >= 2]
        mend = f"the nearest d1 that works is {works[0]}" if works else "no d1 works at this shape"
        raise InfeasibleShapeError(
            f"(n1, n2, d1) = ({rows}, {cols}, {degree}) gives d2={other}: with d1=1 or d2=1 the "
            f"graph is a union of stars, and the Ramanujan property needs both degrees >= 2; {mend}"
        )
    return rows, cols, degree, other


def _indivisible(n1: int, n2: int, d1: int) -> str:
    """Say why ``n1 * d1`` edges cannot be shared evenly by ``n2`` vertices, and what could."""
    degree_step, row_step = n2 // gcd(n1, n2), n2 // gcd(n2, d1)
    degrees = [d for d in _around(d1, degree_step) if d <= n2]
    columns = _nearest_divisors(n1 * d1, n2, at_least=d1)
    options = [
        f"{name} = {' or '.join(map(str, values))}"
        for name, values in (("d1", degrees), ("n1", _around(n1, row_step)), ("n2", columns))
        if values
    ]
    return (
        f"n1*d1 = {n1}*{d1} = {n1 * d1} is not divisible by n2 = {n2}, so the right vertices "
        f"cannot all have the same degree; the nearest that work: {'; '.join(options)}"
    )


def _around(value: int, step: int) -> list[int]:
    """The positive multiples of ``step`` just below and just above ``value``."""
    below = value // step * step
    return [v for v in (below, below + step) if v > 0]


def _nearest_divisors(product: int, target: int, *, at_least: int) -> list[int]:
    """The divisors of ``product`` closest to ``target`` on either side, none under ``at_least``."""
    from sympy import divisors

    candidates = [d for d in divisors(product) if d >= at_least]
    below = [d for d in candidates if d < target][-1:]
    above = [d for d in candidates if d > target][:1]
    return below + above


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
