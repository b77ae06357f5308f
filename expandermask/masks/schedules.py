"""Densities over a model, the same everywhere or falling with depth: Partial-LoRA's baselines.

A density says what share of a module's rows (of B) and columns (of A) is kept. Those read off the
pretrained model come from `expandermask.importance.derive_sparsity`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from expandermask.errors import InvalidInputError, check_integer
from expandermask.masks.bernoulli import check_density
from expandermask.masks.targets import layer_number


class Density(NamedTuple):
    """What share of one module's masks is kept, each in (0, 1]."""

    rows: float
    """Of the rows of B, the outputs."""
    columns: float
    """Of the columns of A, the inputs."""


def density_of(densities: Mapping[str, tuple[float, float]], name: str) -> Density:
    """One module's densities; `InvalidInputError` unless there are two, each in (0, 1]."""
    found = densities.get(name)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise InvalidInputError(
            f"densities must have (rows, columns) for every module; for {name!r} it has "
            f"{found!r:.80}"
        )
    return Density(
        check_density(f"row density of {name!r}", found[0]),
        check_density(f"column density of {name!r}", found[1]),
    )


def balanced(modules: Iterable[str], density: float) -> dict[str, Density]:
    """The same density for every module, rows and columns alike.

    Examples
    --------
    >>> balanced(["layer.0.query", "layer.1.query"], 0.25)["layer.1.query"]
    Density(rows=0.25, columns=0.25)
    """
    density = check_density("density", density)
    return {name: Density(density, density) for name in _names(modules)}


def pyramidal(
    modules: Iterable[str], density: float, *, depths: Mapping[str, int] | None = None
) -> dict[str, Density]:
    """Densities that fall with depth: density**l at depth l, the first layer's depth being 1.

    Partial-LoRA, section 5, after "The unreasonable effectiveness of random pruning" (2022).

    Parameters
    ----------
    modules : iterable of str
        Names, in the model's order: a `MaskPlan`, or what `find_targets` gives.
    density : float
        That of the first layer, in (0, 1].
    depths : mapping from names to int, optional
        The depth of every module, from 1. Without it the first number in a dotted name says which
        layer it is in; the layers there are count from 1, and a module outside of them has the
        depth of the layer before it.

    Examples
    --------
    >>> pyramidal(["layer.0.query", "layer.1.query", "pooler"], 0.5)
    ... # doctest: +NORMALIZE_WHITESPACE
    {'layer.0.query': Density(rows=0.5, columns=0.5),
     'layer.1.query': Density(rows=0.25, columns=0.25),
     'pooler': Density(rows=0.25, columns=0.25)}
    """
    density, names = check_density("density", density), _names(modules)
    depths = depths_of(names) if depths is None else depths
    if missing := [name for name in names if name not in depths]:
        raise InvalidInputError(f"depths must name every module; {missing[0]!r} is missing")
    powers = {n: density ** check_integer(f"depth of {n!r}", depths[n]) for n in names}
    if vanished := [name for name in names if powers[name] == 0]:
        raise InvalidInputError(
            f"density={density} is zero at depth {depths[vanished[0]]} ({vanished[0]!r})"
        )
    return {name: Density(power, power) for name, power in powers.items()}


def depths_of(modules: Iterable[str]) -> dict[str, int]:
    """The depth of every module by its name: see `pyramidal`."""
    names = _names(modules)
    numbers = {name: layer_number(name) for name in names}
    order = {n: i for i, n in enumerate(sorted({n for n in numbers.values() if n is not None}), 1)}
    depths, last = {}, 1
    for name in names:
        number = numbers[name]
        last = last if number is None else order[number]
        depths[name] = last
    return depths


def _names(modules: Iterable[str]) -> list[str]:
    names = [modules] if isinstance(modules, str) else list(modules)
    if isinstance(modules, str) or not names or not all(isinstance(n, str) for n in names):
        raise InvalidInputError(
            f"modules must be names of at least one module, got {modules!r:.80}"
        )
    return names
