"""Ranks that are fixed before training: the same everywhere, or in proportion to gradient norms.

ROLoRA's figure 3 sets the ranks it finds beside the norms of the loss's gradient; sharing ranks out
by these is the allocator that needs no training at all, and so the baseline of those that do.
"""

from __future__ import annotations

from collections.abc import Mapping

from expandermask.allocation.budget import share
from expandermask.allocation.resize import first_ranks, restricted
from expandermask.errors import InvalidInputError, check_integer
from expandermask.masks.plan import MaskPlan


def uniform_ranks(plan: MaskPlan, total: int) -> dict[str, int]:
    """``total`` ranks spread over the modules of a plan, at most what each one's masks have.

    The first modules get one more where they do not come out even.

    Examples
    --------
    >>> from expandermask import MaskPlan
    >>> from expandermask.allocation import uniform_ranks
    >>> plan = MaskPlan.for_shapes({"query": (16, 16), "value": (16, 16)}, r=8, rng=0)
    >>> uniform_ranks(plan, 7)
    {'query': 4, 'value': 3}
    """
    return share(dict.fromkeys(plan, 1.0), total, caps=used_ranks(plan))


def ranks_by_weight(plan: MaskPlan, weights: Mapping[str, float], total: int) -> dict[str, int]:
    """``total`` ranks in proportion to one number for each module, at most what its masks have.

    Such as ``expandermask.importance.gradient_norms(...)``. Raises `InvalidInputError` where a
    module of the plan has no weight.
    """
    if missing := next((place for place in plan if place not in weights), None):
        raise InvalidInputError(f"weights must name every module, and {missing!r} is missing")
    own = {place: weights[place] for place in plan}
    return share(own, total, caps=used_ranks(plan))


def used_ranks(plan: MaskPlan) -> dict[str, int]:
    """How many ranks of each module its masks give entries: all r, unless they are parts."""
    return {place: len(pair.used_ranks) for place, pair in plan.items()}


def plan_of_ranks(plan: MaskPlan, ranks: Mapping[str, int]) -> MaskPlan:
    """The part of a plan's masks at each module's first ranks; modules of rank 0 are left out.

    Masks of the full rank stay as they are, certified if they were; parts of them claim nothing.

    Raises
    ------
    InvalidInputError
        A module has no rank, or one beyond those its masks have; or all are 0.

    Examples
    --------
    >>> from expandermask import MaskPlan
    >>> from expandermask.allocation import plan_of_ranks
    >>> shapes = {"query": (16, 16), "value": (16, 16)}
    >>> plan = MaskPlan.for_shapes(shapes, r=8, left_degree=8, rng=0)
    >>> plan_of_ranks(plan, {"query": 3, "value": 1}).num_values
    128
    """
    pairs = {}
    for place, pair in plan.items():
        if place not in ranks:
            raise InvalidInputError(f"ranks must name every module, and {place!r} is missing")
        rank = check_integer(f"rank of {place!r}", ranks[place], minimum=0)
        if rank > len(pair.used_ranks):
            raise InvalidInputError(
                f"rank of {place!r} must be at most {len(pair.used_ranks)}, those its masks have, "
                f"got {rank}"
            )
        if rank:
            pairs[place] = restricted(pair, first_ranks(pair, rank))
    if not pairs:
        raise InvalidInputError(f"nothing is left of {len(plan)} modules; give at least one a rank")
    return plan.with_masks(pairs, left_degree=None)
