"""Pictures of what `inspect_mask` reports: of one mask, and of a whole checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError, MissingPackageError
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.inspection.checkpoint_report import CheckpointReport
from expandermask.inspection.mask_report import MaskReport, SideReport
from expandermask.inspection.measure import is_about
from expandermask.inspection.normalised import normalised_spectrum
from expandermask.inspection.supports import support_of
from expandermask.plots._axes import BOUND, LIMIT, METHODS, SIDES, VALUES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PIXELS = 512
_PANELS = 4
_VERDICTS = ("PROVED", "REFUTED", "EMPTY", "NOT BIREGULAR", "UNDECIDED", "STAR", "DENSE")
_COLORS = dict(zip(_VERDICTS, METHODS, strict=True))


def report(
    report: MaskReport, mask: Any, axes: Sequence[Axes] | NDArray[Any] | None = None
) -> NDArray[Any]:
    """A mask in four panels: itself, its row and column degrees, and its singular values.

    The singular values are the normalised ones, of D1^(-1/2) M D2^(-1/2), so that the trivial one
    is 1 whatever the degrees. A biregular mask has its Ramanujan bound and its limit drawn in, on
    the same scale.

    Parameters
    ----------
    report : MaskReport
        What `inspect_mask` found of the mask.
    mask : anything `inspect_mask` takes as one mask
        The mask itself, which the report does not hold.
    axes : four Axes, optional
        Where to draw; a new figure without them.

    Returns
    -------
    array of Axes, shape (4,)

    Raises
    ------
    InvalidInputError
        The report is of another mask, or there are not four axes.
    TooLargeError
        The singular values, a dense problem of the smaller side, do not fit in memory.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> import expandermask as xm
    >>> from expandermask.plots.report import report
    >>> mask = xm.generate_ramanujan_mask(96, 16, 2, rng=0)
    >>> [ax.get_title() for ax in report(xm.inspect_mask(mask), mask)]
    ['96 x 16, 192 entries', 'row degrees', 'column degrees', 'PROVED']
    """
    support = support_of(mask, "mask")
    graph = support.edges()
    if not is_about(report, replace(support, graph=graph)):
        raise InvalidInputError(
            f"mask is {support.shape} with {support.ones} entries, and the report is of one that "
            f"is {report.shape} with {report.ones}, of SHA-256 {report.digest}; draw that one"
        )
    picture, rows, columns, spectrum = panels = _four(axes)
    _draw_mask(graph, picture)
    _draw_degrees(report.left, "row", SIDES["B"], rows)
    _draw_degrees(report.right, "column", SIDES["A"], columns)
    _draw_spectrum(report, graph, spectrum)
    return panels


def checkpoint(report: CheckpointReport, ax: Axes | None = None) -> Axes:
    """The normalised spectral gap of every mask of a checkpoint, coloured by verdict.

    One dot for each mask, in the order of the source; a ring around it says that the mask has dead
    rows or columns, or signs of tiling or cropping. Masks whose gap is unknown (empty ones) are
    drawn at 0.

    Parameters
    ----------
    report : CheckpointReport
        What `inspect_mask` found.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> import expandermask as xm
    >>> plan = xm.MaskPlan.for_shapes({"query": (96, 96), "value": (96, 96)}, r=16, rng=0)
    >>> xm.plots.checkpoint(xm.inspect_mask(plan)).get_xlabel()
    'mask (4 of MaskPlan)'
    """
    ax = new_axes(ax, size=(9.0, 4.4))
    reports = list(report.values())
    gaps = np.array([r.gap or 0.0 for r in reports])
    for verdict, count in report.verdicts.items():
        chosen = [k for k, r in enumerate(reports) if r.verdict == verdict]
        ax.plot(chosen, gaps[chosen], "o", ms=4, color=_COLORS[verdict], label=f"{count} {verdict}")
    marked = [k for k, r in enumerate(reports) if r.left.dead or r.right.dead or r.symptoms]
    if marked:
        label = f"{len(marked)} with dead rows or columns, or symptoms"
        ax.plot(marked, gaps[marked], "o", ms=9, mfc="none", color=LIMIT, label=label)
    ax.set(
        xlabel=f"mask ({len(reports)} of {report.source})",
        ylabel=r"gap, $1 - \sigma_2 / \sigma_1$ (normalised)",
        ylim=(-0.04, 1.04),
    )
    ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    return ax


def _four(axes: Sequence[Axes] | NDArray[Any] | None) -> NDArray[Any]:
    """The axes given, or those of a new figure, as an array of four."""
    if axes is not None:
        given = np.asarray(axes, dtype=object).ravel()
        if given.size != _PANELS:
            raise InvalidInputError(f"axes must be {_PANELS} matplotlib Axes, got {given.size}")
        return given
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingPackageError(
            "pictures need matplotlib: pip install 'expandermask[plot]'"
        ) from None
    made = plt.subplots(2, 2, figsize=(9.6, 7.2), layout="constrained")[1]
    return np.asarray(made).ravel()


def _draw_mask(graph: BipartiteGraph, ax: Axes) -> None:
    """The share of entries in each cell of at most 512 x 512; a cell is one entry if they fit."""
    cell = -(-graph.n1 // _PIXELS), -(-graph.n2 // _PIXELS)
    shape = -(-graph.n1 // cell[0]), -(-graph.n2 // cell[1])
    places = graph.lefts // cell[0] * shape[1] + graph.rights // cell[1]
    counts = np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)
    heights, widths = (
        np.diff(np.minimum(np.arange(m + 1) * c, n))
        for m, c, n in zip(shape, cell, (graph.n1, graph.n2), strict=True)
    )
    ax.imshow(
        counts / np.outer(heights, widths),
        cmap="Greys",
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        extent=(0, shape[1] * cell[1], shape[0] * cell[0], 0),
    )
    ax.set(xlabel="column", ylabel="row", xlim=(0, graph.n2), ylim=(graph.n1, 0))
    ax.set_title(f"{graph.n1} x {graph.n2}, {graph.num_edges:,} entries")


def _draw_degrees(side: SideReport, name: str, color: str, ax: Axes) -> None:
    degrees, counts = zip(*side.histogram.items(), strict=True)
    colors = [BOUND if degree == 0 else color for degree in degrees]
    ax.bar(degrees, counts, color=colors, width=0.9)
    low, high = min(degrees), max(degrees)
    margin = max(2.0, 0.05 * (high - low))
    ax.set(
        xlabel=f"entries in a {name}",
        ylabel=f"{name}s",
        xlim=(max(low - margin, -0.6), high + margin),
    )
    ax.locator_params(axis="x", integer=True)
    ax.set_title(f"{name} degrees" + (f", {side.dead} dead" if side.dead else ""))


def _draw_spectrum(report: MaskReport, graph: BipartiteGraph, ax: Axes) -> None:
    several = f", {report.components} components" if report.components > 1 else ""
    ax.set_title(report.verdict + several)
    ax.set(xlabel="index k", ylabel=r"$\sigma_k / \sigma_1$ (normalised)", ylim=(0, 1.05))
    if graph.num_edges == 0:
        return
    values = normalised_spectrum(graph)
    ones = report.components
    ax.plot(np.arange(1, ones + 1), values[:ones], "*", color=VALUES, label="one per component")
    ax.plot(np.arange(ones + 1, values.size + 1), values[ones:], ".", color=VALUES, label="others")
    if proof := report.certificate:
        top = math.sqrt(proof.d1 * proof.d2)
        bound = f"Ramanujan bound {proof.bound:.3f}"
        ax.axhline(proof.bound / top, color=BOUND, lw=1.5, label=bound)
        limit = rf"limit on $\sigma_2$ {proof.limit:.3f}"
        ax.axhline(proof.limit / top, color=LIMIT, lw=1.5, ls="--", label=limit)
    ax.legend(fontsize="small", loc="lower left")
