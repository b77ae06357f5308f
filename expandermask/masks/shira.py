"""shira_mask_fn(): certified Ramanujan masks for PEFT's SHiRA (sparse high-rank adapters).

SHiRA (Bhardwaj et al. 2024) trains a sparse update of the weight itself, with as many entries as
LoRA of rank r has: r (m + n) of an m x n weight. PEFT lets the user choose where they sit.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd, lcm
from typing import TYPE_CHECKING, Any

from expandermask.errors import (
    InfeasibleShapeError,
    InvalidInputError,
    check_integer,
    nearest_multiples,
)
from expandermask.graphs.catalog import METHODS, ramanujan_graph
from expandermask.graphs.random import RandomState, derive_seed, draw_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

MaskFunction = Callable[..., "Tensor"]
"""f(base_layer, r, **kwargs): a 0/1 tensor like the layer's weight with r (m + n) ones."""


def shira_mask_fn(*, method: str = "auto", rng: RandomState = None) -> MaskFunction:
    """A mask function for ``peft.ShiraConfig`` that gives proved Ramanujan graphs.

    The mask of an m x n weight is the biadjacency of a biregular graph with r (m + n) / m entries
    in each row and r (m + n) / n in each column. It depends on the seed, m, n and r alone, so
    layers of one shape have the same mask.

    Parameters
    ----------
    method : str
        The construction, as in `ramanujan_graph`.
    rng : None, int or numpy.random.Generator
        One seed for every mask; from None or a Generator it is drawn once, here.

    Returns
    -------
    callable
        ``f(base_layer, r, **kwargs)``, for an `torch.nn.Linear` a tensor of zeros and ones of the
        weight's shape, dtype and device; further keywords, which PEFT passes, are not looked at.
        It raises `InfeasibleShapeError`, with the nearest r that works, where no biregular graph
        has r (m + n) entries, and `InvalidInputError` for a layer without a 2-D weight.

    Raises
    ------
    InvalidInputError
        ``method`` is unknown.

    Examples
    --------
    >>> import torch
    >>> from expandermask.peft import shira_mask_fn
    >>> mask = shira_mask_fn(rng=0)(torch.nn.Linear(96, 48), 2)
    >>> mask.shape, int(mask.sum()) == 2 * (48 + 96), mask.sum(1).unique(), mask.sum(0).unique()
    (torch.Size([48, 96]), True, tensor([6.]), tensor([3.]))

    With PEFT::

        config = peft.ShiraConfig(r=2, mask_type="ramanujan", target_modules=["query"])
        config.mask_fn = shira_mask_fn(rng=0)
        model = peft.get_peft_model(model, config)
    """
    if method not in METHODS:
        raise InvalidInputError(f"method must be one of {METHODS}, got {method!r}")
    seed = draw_seed(rng)

    def mask_fn(base_layer: nn.Module, r: int, **_: Any) -> Tensor:
        weight = getattr(base_layer, "weight", None)
        if weight is None or len(weight.shape) != 2:
            raise InvalidInputError(
                f"a SHiRA mask needs a layer with a 2-D weight, got {type(base_layer).__name__}"
            )
        m, n = weight.shape
        graph = ramanujan_graph(
            m, n, row_degree(m, n, r), method=method, rng=derive_seed(seed, "shira", m, n, r)
        )
        return graph.to_torch().to(device=weight.device, dtype=weight.dtype)

    return mask_fn


def row_degree(m: int, n: int, r: int) -> int:
    """Entries in each row of a biregular m x n mask with r (m + n) in all.

    Raises `InfeasibleShapeError`, with the nearest r that works, unless m and n divide r (m + n)
    and it is at most m n.

    >>> row_degree(768, 3072, 4)
    20
    """
    r = check_integer("r", r)
    step = lcm(m // gcd(m, n), n // gcd(m, n))
    largest = m * n // (m + n)
    if r % step or r > largest:
        near = nearest_multiples(r, step, step, largest)
        works = f"the nearest r that works: {' or '.join(map(str, near))}" if near else "no r works"
        raise InfeasibleShapeError(
            f"r={r} asks for r*(m+n) = {r}*({m}+{n}) = {r * (m + n)} entries of a {m} x {n} "
            f"weight, in rows and columns of equal numbers: r must be a multiple of {step}, and at "
            f"most {largest}; {works}"
        )
    return r * (m + n) // m
