"""generate_ramanujan_mask(): a certified 0/1 mask in one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import check_ramanujan_shape, require_memory
from expandermask.graphs.catalog import ramanujan_graph
from expandermask.graphs.random import RandomState


def generate_ramanujan_mask(
    n1: int, n2: int, d1: int, *, method: str = "auto", rng: RandomState = None
) -> NDArray[np.uint8]:
    """A 0/1 mask whose bipartite graph is *proved* to be Ramanujan.

    Every row has exactly d1 ones and every column exactly d2 = n1 * d1 / n2, the graph is
    connected, and its second singular value is at most sqrt(d1 - 1) + sqrt(d2 - 1).

    Parameters
    ----------
    n1, n2 : int
        Shape of the mask; either side may be longer.
    d1 : int
        Ones per row, 2 <= d1 <= n2, with n1 * d1 divisible by n2.
    method, rng
        As in `ramanujan_graph`.

    Returns
    -------
    uint8 array, shape (n1, n2), C order.

    Raises
    ------
    InvalidInputError, InfeasibleShapeError, TooLargeError, NotProvedError
        As `ramanujan_graph` does; nothing unproved is ever returned.

    Examples
    --------
    >>> import expandermask as xm
    >>> mask = xm.generate_ramanujan_mask(768, 8, 2, rng=0)
    >>> mask.shape, set(mask.sum(axis=1).tolist()), set(mask.sum(axis=0).tolist())
    ((768, 8), {2}, {192})
    """
    n1, n2, d1, _ = check_ramanujan_shape(n1, n2, d1)
    require_memory(n1 * n2, f"a dense {n1} x {n2} uint8 mask")
    return ramanujan_graph(n1, n2, d1, method=method, rng=rng).mask()
