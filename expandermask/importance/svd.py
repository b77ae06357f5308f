"""svd_scores(): rows and columns by how much of them lies in the top singular directions.

Partial-LoRA, section 4.2.2. With W = P L Q (rows of Q the right singular vectors) and V = Q' L the
score of a row is its norm in W V, and that of a column the same for W'. Since W V V' W' = (W W')^2,
these are the row norms of W W' and of W' W, and no decomposition is needed. (The paper prints V = Q
L, whose result changes with the arbitrary signs of singular vectors.)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from expandermask.errors import InvalidInputError
from expandermask.importance.weights import oriented, target_weights
from expandermask.masks.places import bare_modules
from expandermask.masks.scored import Scores


@torch.no_grad()
def svd_scores(
    model: nn.Module,
    target_modules: str | Iterable[str] = "all-linear",
    *,
    progress: bool = False,
) -> dict[str, Scores]:
    """The SVD score of every row and column of every target module's weight.

    Parameters
    ----------
    model : torch.nn.Module
        Any model; only its weights are read, without data.
    target_modules : str or iterable of str
        As in `find_targets`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to Scores
        In the model's order, float64.

    Raises
    ------
    AdapterError
        No module matches, or one is quantized.
    InvalidInputError
        A weight with NaN or infinite entries.

    Notes
    -----
    One module at a time, in float64: O(d k min(d, k)) time and O(d k + min(d, k)^2) memory.

    Examples
    --------
    >>> import torch
    >>> from expandermask.importance import svd_scores
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    >>> svd_scores(model)["0"].rows
    array([9., 4.])
    """
    modules = dict(bare_modules(model))
    weights = tqdm(
        target_weights(model, target_modules).items(),
        desc="SVD scores",
        unit="module",
        disable=not progress,
    )
    return {name: _scores(name, oriented(modules[name], weight)) for name, weight in weights}


def _scores(name: str, weight: Tensor) -> Scores:
    if not bool(torch.isfinite(weight).all()):
        raise InvalidInputError(f"the weight of {name!r} has NaN or infinite entries")
    w = weight.double()
    if w.shape[0] < w.shape[1]:
        columns, rows = _gram_norms(w.t())
    else:
        rows, columns = _gram_norms(w)
    return Scores(rows, columns)


def _gram_norms(tall: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row norms of W W' and of W' W, by the smaller of the two alone, for W no wider than tall.

    That of row w in W W' is the square root of w (W' W) w'.
    """
    gram = tall.t() @ tall
    squares = ((tall @ gram) * tall).sum(dim=1).clamp_(min=0)
    return squares.sqrt().cpu().numpy(), gram.norm(dim=1).cpu().numpy()
