"""What studies report: means with spread, paired tests, correlations with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None of one value), the least, the largest, and how many."""
    x = np.asarray(values, dtype=float)
    return {
        "mean": float(x.mean()),
        "std": float(x.std(ddof=1)) if len(x) > 1 else None,
        "min": float(x.min()),
        "max": float(x.max()),
        "n": len(x),
    }


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """The mean difference first - second over the same seeds, its interval, and a paired t test.

    Interval and p-value are None where there are fewer than two pairs, or all differences are
    equal but for rounding.
    """
    d = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    found: dict[str, Any] = {
        "difference": float(d.mean()),
        "n": len(d),
        "interval": None,
        "p": None,
    }
    if len(d) > 1 and np.ptp(d) > 1e-9 * np.abs(np.concatenate([first, second])).max():
        test = stats.ttest_1samp(d, 0.0)
        interval = test.confidence_interval(CONFIDENCE)
        found |= {"interval": [float(interval.low), float(interval.high)], "p": float(test.pvalue)}
    return found


def welch(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """The difference of the means first - second of unrelated values, with its interval and p.

    Welch's t test, which lets both have variances of their own; None where either has one value or
    all of both are equal.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    found: dict[str, Any] = {
        "difference": float(a.mean() - b.mean()),
        "n": [len(a), len(b)],
        "interval": None,
        "p": None,
    }
    if min(len(a), len(b)) > 1 and np.ptp(a) + np.ptp(b) > 0:
        test = stats.ttest_ind(a, b, equal_var=False)
        interval = test.confidence_interval(CONFIDENCE)
        found |= {"interval": [float(interval.low), float(interval.high)], "p": float(test.pvalue)}
    return found


def adjusted(comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`paired` comparisons with ``p_adjusted``, for how many of them a study looks at.

    Benjamini and Hochberg's (1995): of the differences called real at p_adjusted <= q, a share of
    at most q is expected not to be.
    """
    found = {name: {**own, "p_adjusted": None} for name, own in comparisons.items()}
    tested = [own for own in found.values() if own["p"] is not None]
    if tested:
        for own, p in zip(
            tested, stats.false_discovery_control([o["p"] for o in tested]), strict=True
        ):
            own["p_adjusted"] = float(p)
    return found


def correlation(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Pearson's r (interval by Fisher's z) and Spearman's rho (by 10,000 bootstrap samples)."""
    pearson, spearman = stats.pearsonr(x, y), stats.spearmanr(x, y)
    interval = pearson.confidence_interval(CONFIDENCE)
    return {
        "n": len(x),
        "pearson": float(pearson.statistic),
        "pearson_interval": [float(interval.low), float(interval.high)],
        "pearson_p": float(pearson.pvalue),
        "spearman": float(spearman.statistic),
        "spearman_interval": _bootstrap(np.asarray(x), np.asarray(y), seed),
        "spearman_p": float(spearman.pvalue),
    }


def _bootstrap(x: np.ndarray, y: np.ndarray, seed: int) -> list[float]:
    """Percentiles of Spearman's rho over samples of the pairs with replacement."""
    rng = np.random.default_rng(seed)
    rhos = []
    for _ in range(10_000):
        rows = rng.integers(len(x), size=len(x))
        if len(set(x[rows])) > 1 and len(set(y[rows])) > 1:
            a, b = (stats.rankdata(v[rows]) for v in (x, y))
            rhos.append(np.corrcoef(a, b)[0, 1])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(rhos, [tail, 100 - tail])
    return [float(low), float(high)]
