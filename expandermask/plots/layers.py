"""Pictures over a model's layers: a heatmap of layer by module, and curves over depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from expandermask.errors import InvalidInputError
from expandermask.masks.targets import layer_number
from expandermask.plots._axes import METHODS, new_axes
from expandermask.plots.plans import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^v<>"
_MOST_NUMBERS = 160


def heatmap(
    values: Mapping[str, float],
    ax: Axes | None = None,
    *,
    label: str = "value",
    title: str = "",
    limits: tuple[float, float] | None = None,
) -> Axes:
    """One number for each module, layers across and kinds of module down; missing ones grey.

    The layer of a module is the first number in its dotted name, its kind all that comes after; and
    all that comes before as well, where modules would else share a place, as those of an encoder
    and a decoder.

    Parameters
    ----------
    values : mapping from module names to numbers
        Densities, ranks, norms, scores ...
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.
    label : str
        What the numbers are, with their unit.
    title : str
        Above the picture.
    limits : pair of float, optional
        Ends of the colour scale; without it those of the values.

    Raises
    ------
    InvalidInputError
        Nothing to draw, or values that are not finite.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask.plots import heatmap
    >>> ax = heatmap({"layer.0.query": 0.5, "layer.0.value": 0.2, "layer.1.query": 0.9})
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['query', 'value']
    """
    numbers = _finite(values)
    kind_of = kinds_of(numbers)
    kinds = list(dict.fromkeys(kind_of.values()))
    layers = sorted({layer_number(name) for name in numbers}, key=lambda n: (n is None, n or 0))
    grid = np.full((len(kinds), len(layers)), np.nan)
    for name, value in numbers.items():
        grid[kinds.index(kind_of[name]), layers.index(layer_number(name))] = value
    size = (max(4.0, 1.9 + 0.55 * len(layers)), max(2.2, 1.2 + 0.36 * len(kinds)))
    ax = new_axes(ax, size=size)
    low, high = limits if limits is not None else (np.nanmin(grid), np.nanmax(grid))
    image = ax.imshow(
        np.ma.masked_invalid(grid), cmap="cividis", vmin=low, vmax=high, aspect="auto"
    )
    ax.set_facecolor("0.85")
    _write_numbers(ax, grid, low, high)
    ax.set_yticks(range(len(kinds)), shortened(kinds))
    ax.set_xticks(range(len(layers)), ["-" if n is None else str(n) for n in layers])
    ax.set_xlabel("layer")
    ax.figure.colorbar(image, ax=ax, label=label)
    ax.set_title(title, loc="left")
    return ax


def over_depth(
    curves: Mapping[str, Mapping[str, float]],
    ax: Axes | None = None,
    *,
    label: str = "value",
    title: str = "",
    spread: Mapping[str, Mapping[str, float]] | None = None,
) -> Axes:
    """A curve over the layers for each method: the mean over the modules of each layer.

    Parameters
    ----------
    curves : mapping from methods to mappings from module names to numbers
        Norms of the residuals, fractions kept ... Names need a layer's number; filter them to show
        one kind of module.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.
    label : str
        What the numbers are, with their unit.
    title : str
        Above the picture.
    spread : mapping like ``curves``, optional
        Half the width of a band around each curve, such as a standard deviation over seeds.

    Raises
    ------
    InvalidInputError
        Nothing to draw, values that are not finite, a name without a layer's number, or a spread of
        other layers than its curve.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask.plots import over_depth
    >>> ax = over_depth({"SVD": {"layer.0.query": 0.5, "layer.1.query": 0.9}}, label="fraction")
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('layer', 'fraction')
    """
    if not curves:
        raise InvalidInputError("curves is empty; there is nothing to draw")
    ax = new_axes(ax)
    from matplotlib.ticker import MaxNLocator

    for i, (method, values) in enumerate(curves.items()):
        layers, means = _by_layer(values)
        color, marker = METHODS[i % len(METHODS)], MARKERS[i % len(MARKERS)]
        ax.plot(layers, means, color=color, marker=marker, ms=4.5, lw=1.4, label=method)
        if spread is not None and method in spread:
            places, widths = _by_layer(spread[method])
            if places != layers:
                raise InvalidInputError(
                    f"spread of {method!r} is of layers {places}, and its curve of {layers}"
                )
            band = np.array(means) - widths, np.array(means) + widths
            ax.fill_between(layers, *band, color=color, alpha=0.18, lw=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("layer")
    ax.set_ylabel(label)
    ax.set_title(title, loc="left")
    ax.legend(fontsize="small", frameon=False)
    return ax


def _by_layer(values: Mapping[str, float]) -> tuple[list[int], list[float]]:
    """The layers in order, and the mean over the modules of each."""
    groups: dict[int, list[float]] = {}
    for name, value in _finite(values).items():
        layer = layer_number(name)
        if layer is None:
            raise InvalidInputError(f"module {name!r} has no layer's number in its name")
        groups.setdefault(layer, []).append(value)
    return sorted(groups), [float(np.mean(groups[layer])) for layer in sorted(groups)]


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in values.items()}
    if not numbers:
        raise InvalidInputError("there are no modules to draw")
    if bad := [name for name, value in numbers.items() if not np.isfinite(value)]:
        raise InvalidInputError(f"the value of {bad[0]!r} is {numbers[bad[0]]}; it must be finite")
    return numbers


def kinds_of(names: Iterable[str]) -> dict[str, str]:
    """The kind of every module: what comes after the layer's number in its name, or all of it.

    With what comes before, if two of a layer would be of one kind.
    """
    parts = {}
    for name in names:
        every = name.split(".")
        place = next((i for i, part in enumerate(every[:-1]) if part.isdecimal()), None)
        parts[name] = ([], every) if place is None else (every[:place], every[place + 1 :])
    kinds = {name: ".".join(after) for name, (_, after) in parts.items()}
    if len({(layer_number(name), kind) for name, kind in kinds.items()}) == len(kinds):
        return kinds
    return {name: ".".join(before + after) for name, (before, after) in parts.items()}


def _write_numbers(ax: Axes, grid: np.ndarray, low: float, high: float) -> None:
    """The values in their cells, where there is room."""
    if grid.size > _MOST_NUMBERS:
        return
    for i, j in np.argwhere(~np.isnan(grid)):
        light = grid[i, j] - low > 0.6 * (high - low)
        ax.text(
            j,
            i,
            f"{grid[i, j]:.3g}",
            ha="center",
            va="center",
            fontsize="x-small",
            color="black" if light else "white",
        )
