"""partial_plan(): a plan of Partial-LoRA's masks for a whole model, from densities of any source.

"The quest for winning tickets in low-rank adapters" (Partial-LoRA), section 4.2: the update of a
module is (u_row . B)(u_col . A), rows of B and columns of A kept or not as a whole. Its variants
differ in which are kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, get_args

from numpy.typing import ArrayLike

from expandermask.errors import InvalidInputError, check_size
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.graphs.random import RandomState, derive_seed, draw_seed
from expandermask.masks.bernoulli import bernoulli, row_column
from expandermask.masks.plan import MaskPlan
from expandermask.masks.schedules import density_of
from expandermask.masks.scored import (
    Scores,
    check_both,
    check_temperature,
    inverted,
    stochastic,
    targeted,
)
from expandermask.masks.targets import Shape

Select = Literal["bernoulli", "elements", "targeted", "inverted", "stochastic"]
_BY_SCORE = ("targeted", "inverted", "stochastic")


class NothingKeptWarning(UserWarning):
    """Modules whose masks keep nothing, and which are therefore not adapted."""


def partial_plan(
    shapes: Mapping[str, Shape],
    densities: Mapping[str, tuple[float, float]],
    *,
    r: int,
    select: Select = "bernoulli",
    scores: Mapping[str, Scores] | None = None,
    temperature: float = 1.0,
    rng: RandomState = None,
) -> MaskPlan:
    """A plan that keeps whole rows of B and columns of A, or single entries, at given densities.

    Parameters
    ----------
    shapes : mapping from names to (d, k)
        The modules, as `find_targets` gives them.
    densities : mapping from names to (rows, columns)
        Shares to keep, each in (0, 1]: ``derive_sparsity(...).densities``, `balanced`, `pyramidal`,
        or your own. It may name more modules than ``shapes``.
    r : int
        Rank of the adapters.
    select : str
        Which are kept.

        - "bernoulli": each row and column with its density's probability (Partial-LoRA);
        - "elements": each entry likewise, as its theorem 4.1 has it;
        - "targeted": exactly the highest scored, round(density * n) of them;
        - "inverted": exactly the others;
        - "stochastic": as many as targeted, drawn by softmax(score / temperature).
    scores : mapping from names to Scores, optional
        For the last three; by `expandermask.importance`, maybe through `continuous`.
    temperature : float
        For "stochastic", in standard deviations of the scores.
    rng : None, int or numpy.random.Generator
        One seed for the whole plan, masks and first values.

    Returns
    -------
    MaskPlan
        Without the modules of which a mask came out empty, with a `NothingKeptWarning` that names
        them. `expandermask.inspection.mask_outcomes` tells what to expect and what came out.

    Raises
    ------
    InvalidInputError
        A density outside (0, 1] or missing, scores missing or of another shape, or nothing kept at
        all.

    Notes
    -----
    A row or column kept is r trainable values: r * (kept rows + kept columns) in all.

    Examples
    --------
    >>> from expandermask.masks import balanced, partial_plan
    >>> shapes = {"query": (384, 384), "value": (384, 384)}
    >>> partial_plan(shapes, balanced(shapes, 0.25), r=8, rng=0)
    MaskPlan(2 modules, r=8, 3,200 values)
    """
    if select not in get_args(Select):
        raise InvalidInputError(f"select must be one of {get_args(Select)}, got {select!r}")
    if not shapes:
        raise InvalidInputError("shapes is empty; give at least one module")
    r, seed, temperature = check_size("r", r), draw_seed(rng), check_temperature(temperature)
    masks, empty = {}, []
    for name, shape in shapes.items():
        if not isinstance(shape, tuple | list) or len(shape) != 2:
            raise InvalidInputError(f"shape of {name!r} must be a pair (d, k), got {shape!r:.80}")
        density = density_of(densities, name)
        own = _scores(scores, name, shape) if select in _BY_SCORE else None
        sides = {
            "A": (shape[1], density.columns, None if own is None else own.columns),
            "B": (shape[0], density.rows, None if own is None else own.rows),
        }
        a, b = (
            _mask(select, r, *sides[side], temperature, derive_seed(seed, name, side, "mask"))
            for side in "AB"
        )
        if a is None or b is None or a.num_edges == 0 or b.num_edges == 0:
            empty.append(name)
        else:
            masks[name] = a, b
    if not masks:
        raise InvalidInputError(f"nothing is kept in any of {len(shapes)} modules; raise densities")
    if empty:
        warnings.warn(
            f"masks of {len(empty)} of {len(shapes)} modules keep nothing; they are not adapted: "
            f"{', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}",
            NothingKeptWarning,
            stacklevel=2,
        )
    return MaskPlan.from_masks(masks, rng=seed)


def _mask(
    select: Select,
    r: int,
    n1: int,
    density: float,
    scores: ArrayLike | None,
    temperature: float,
    seed: int,
) -> BipartiteGraph | None:
    """One mask; None where a count comes out as nothing."""
    if scores is None:
        make = bernoulli if select == "elements" else row_column
        return make(n1, r, density, rng=seed)
    keep = round(density * n1)
    if keep == 0 or (select == "inverted" and keep == n1):
        return None
    if select == "stochastic":
        return stochastic(scores, keep, r, temperature=temperature, rng=seed)
    return (targeted if select == "targeted" else inverted)(scores, keep, r)


def _scores(scores: Mapping[str, Scores] | None, name: str, shape: Shape) -> Scores:
    if scores is None or name not in scores:
        raise InvalidInputError(f"scores must name every module, and {name!r} is missing")
    found = check_both(name, scores[name])
    if found.shape != tuple(shape):
        raise InvalidInputError(
            f"scores of {name!r} are of a (d, k) = {found.shape} weight, and it has {tuple(shape)}"
        )
    return found
