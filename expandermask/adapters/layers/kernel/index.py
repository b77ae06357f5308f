"""The check that makes unchecked writes safe."""

from __future__ import annotations

from torch import Tensor

from expandermask.errors import InvalidInputError


def check_index(index: Tensor, r: int) -> None:
    """Raise unless every entry is in [0, r) and no column names a rank twice.

    ``index`` is (left_degree, n), uint8, int16 or int32. The kernel writes to the rank an index
    names without looking, and the dense factors of the portable path keep one value a place.
    O(left_degree * n * log(left_degree)).

    Raises
    ------
    InvalidInputError
        Saying which entry breaks the rule.
    """
    outside = (index.int() < 0) | (index.int() >= r)
    if outside.any():
        slot, i = outside.nonzero()[0].tolist()
        raise InvalidInputError(
            f"index[{slot}, {i}] is {int(index[slot, i])}; ranks are from 0 to r - 1 = {r - 1}"
        )
    ordered = index.int().sort(dim=0).values
    repeated = (ordered[1:] == ordered[:-1]).nonzero()
    if len(repeated):
        slot, i = repeated[0].tolist()
        raise InvalidInputError(
            f"index[:, {i}] names rank {int(ordered[slot, i])} twice; the ranks of one column "
            "must differ"
        )
