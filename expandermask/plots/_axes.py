"""What the pictures share: the colours, and axes to draw on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expandermask.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The palette of Okabe and Ito, told apart under every common colour blindness.
VALUES = "#0072B2"
BOUND = "#D55E00"
LIMIT = "#000000"
SIDES = {"A": "#0072B2", "B": "#009E73"}
METHODS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")


def new_axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.4)) -> Axes:
    """``ax`` itself, or the axes of a new figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingPackageError(
            "pictures need matplotlib: pip install 'expandermask[plot]'"
        ) from None
    axes: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return axes
