"""Which rows and columns to keep by their scores: the best, the worst, or drawn by softmax.

Partial-LoRA calls them Targeted, Inverted and Stochastic; its own masks are drawn without regard to
the scores, see `row_column`. Scores come from `expandermask.importance` or anywhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expandermask.errors import (
    InvalidInputError,
    check_edges,
    check_integer,
    check_real,
    check_size,
)
from expandermask.graphs.bipartite import BipartiteGraph, from_kept
from expandermask.graphs.random import RandomState, draw_seed


class Scores(NamedTuple):
    """How important the rows and columns of one module's (d, k) weight are."""

    rows: NDArray[np.float64]
    """Of the outputs: float64, shape (d,)."""
    columns: NDArray[np.float64]
    """Of the inputs: float64, shape (k,)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(d, k), the shape of the module's weight."""
        return len(self.rows), len(self.columns)


def targeted(scores: ArrayLike, keep: int, n2: int) -> BipartiteGraph:
    """The mask that keeps the ``keep`` highest scored rows, whole (Targeted-LoRA).

    Of equal scores the later rows are kept, as Algorithm 1, which removes the first of the least,
    leaves them.

    Parameters
    ----------
    scores : array, shape (n1,)
        Finite, not all zero.
    keep : int
        How many rows, in [1, n1].
    n2 : int
        Columns: the rank.

    Raises
    ------
    InvalidInputError
        Scores that are not one-dimensional and finite, or all zero, which rank nothing; ``keep``
        out of range.

    Examples
    --------
    >>> from expandermask.masks import targeted
    >>> targeted([0.1, 0.9, 0.5, 0.7], 2, 1).mask().ravel().tolist()
    [0, 1, 0, 1]
    """
    found = check_scores("scores", scores)
    keep = _check_keep(keep, len(found))
    return _rows(removal_order(found)[len(found) - keep :], len(found), n2)


def inverted(scores: ArrayLike, keep: int, n2: int) -> BipartiteGraph:
    """The complement of `targeted`: every row but the ``keep`` highest scored; ``keep`` < n1.

    Examples
    --------
    >>> from expandermask.masks import inverted
    >>> inverted([0.1, 0.9, 0.5, 0.7], 1, 1).mask().ravel().tolist()
    [1, 0, 1, 1]
    """
    found = check_scores("scores", scores)
    keep = _check_keep(keep, len(found))
    if keep == len(found):
        raise InvalidInputError(f"keep={keep} is every row, and its complement is empty")
    return _rows(removal_order(found)[: len(found) - keep], len(found), n2)


def stochastic(
    scores: ArrayLike, keep: int, n2: int, *, temperature: float = 1.0, rng: RandomState = None
) -> BipartiteGraph:
    """``keep`` rows drawn without replacement, each next with probability softmax(score / T).

    Scores are divided by their standard deviation first, so that one temperature means the same for
    every layer and every kind of score. T to 0 gives `targeted`, T to infinity a uniform choice.

    Parameters
    ----------
    scores, keep, n2
        As for `targeted`. Equal scores have no deviation to divide by, and are drawn uniformly.
    temperature : float
        T, positive and finite.
    rng : None, int or numpy.random.Generator
        The draw's seed.

    Notes
    -----
    The largest of score + Gumbel noise, which is that distribution (Kool, van Hoof and Welling
    2019). O(n1 log n1).

    Examples
    --------
    >>> from expandermask.masks import stochastic
    >>> stochastic([0.1, 0.9, 0.5, 0.7], 2, 8, temperature=0.01, rng=0).num_edges
    16
    """
    found = check_scores("scores", scores)
    keep = _check_keep(keep, len(found))
    temperature = check_temperature(temperature)
    found = found / np.abs(found).max()  # so that no square is beyond the range of floats
    deviation = found.std()
    logits = found / deviation if deviation > 0 else np.zeros_like(found)
    noise = np.random.default_rng(draw_seed(rng)).gumbel(size=len(found))
    cold = temperature < 1  # the order is the same by either; neither overflows
    keys = logits + noise * temperature if cold else logits / temperature + noise
    return _rows(removal_order(keys)[len(found) - keep :], len(found), n2)


def continuous(
    scores: Mapping[str, Scores], following: Mapping[str, str] | None = None
) -> dict[str, Scores]:
    """Scores with those of the next layer added, which prefers outputs that the next layer reads.

    Partial-LoRA's "Continuous" (appendix H), beside "Isolated", the scores as they are. To the rows
    (outputs) of a module are added the columns (inputs) of the one that follows it.

    Parameters
    ----------
    scores : mapping from module names to `Scores`
        In the model's order.
    following : mapping of str to str, optional
        For each module the one that reads its outputs; those not named stay as they are. Without it
        that is the next in the mapping with as many inputs as the module has outputs: in a
        transformer's feed-forward block just the right one.

    Raises
    ------
    InvalidInputError
        An unknown module, or one that has not as many inputs as the other has outputs.
    """
    found = {name: check_both(name, both) for name, both in scores.items()}
    following = _following(found) if following is None else following
    for name, after in following.items():
        if missing := next((n for n in (name, after) if n not in found), None):
            raise InvalidInputError(f"following: there are no scores of {missing!r}")
        if found[name].shape[0] != found[after].shape[1]:
            raise InvalidInputError(
                f"following: {name!r} has {found[name].shape[0]} outputs, and {after!r} "
                f"{found[after].shape[1]} inputs"
            )
    return {
        name: Scores(both.rows + found[following[name]].columns, both.columns)
        if name in following
        else both
        for name, both in found.items()
    }


def removal_order(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows in the order in which Algorithm 1 removes them: least first, of equals the first."""
    return np.argsort(scores, kind="stable")


def check_scores(name: str, scores: ArrayLike) -> NDArray[np.float64]:
    """``scores`` as float64; `InvalidInputError` unless a finite vector, not all zero."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            found = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, np.exceptions.ComplexWarning) as error:
        raise InvalidInputError(f"{name} must be a vector of real numbers: {error}") from None
    if found.ndim != 1 or found.size == 0:
        raise InvalidInputError(f"{name} must be a non-empty vector, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise InvalidInputError(f"{name} must be finite, got {found[~np.isfinite(found)][0]}")
    if not found.any():
        raise InvalidInputError(f"{name} are all zero and rank nothing; leave this module out")
    return found


def check_temperature(temperature: float) -> float:
    """A softmax's temperature; `InvalidInputError` unless positive and finite."""
    found = check_real("temperature", temperature)
    if not 0 < found < float("inf"):
        raise InvalidInputError(
            f"temperature must be positive and finite, got {temperature!r}; use targeted() for the "
            "limit 0 and row_column() for infinity"
        )
    return found


def check_both(name: str, both: Any) -> Scores:
    """Scores of a module's rows and columns, each by `check_scores`."""
    if not isinstance(both, tuple) or len(both) != 2:
        raise InvalidInputError(
            f"scores of {name!r} must be Scores(rows, columns), got {both!r:.80}"
        )
    return Scores(
        check_scores(f"scores of the rows of {name!r}", both[0]),
        check_scores(f"scores of the columns of {name!r}", both[1]),
    )


def _following(scores: Mapping[str, Scores]) -> dict[str, str]:
    names = list(scores)
    pairs = {}
    for i, name in enumerate(names):
        outputs = scores[name].shape[0]
        after = next((n for n in names[i + 1 :] if scores[n].shape[1] == outputs), None)
        if after is not None:
            pairs[name] = after
    return pairs


def _check_keep(keep: int, n1: int) -> int:
    keep = check_integer("keep", keep)
    if keep > n1:
        raise InvalidInputError(f"keep={keep} of {n1} rows; the most is {n1}")
    return keep


def _rows(kept: NDArray[np.int64], n1: int, n2: int) -> BipartiteGraph:
    check_edges(n1, check_size("n2", n2))
    return from_kept(np.sort(kept), n1, n2)
