"""Pictures over the depth of a plan: the proved spectral gap of every mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expandermask.certificates import Certificate, certify
from expandermask.errors import InvalidInputError
from expandermask.masks.plan import MaskPlan
from expandermask.masks.targets import layer_number
from expandermask.plots._axes import BOUND, LIMIT, SIDES, VALUES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LABELS = 16


def spectral_gaps(plan: MaskPlan | Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """The proved spectral gap of every mask over depth, between what a Ramanujan mask owes and can.

    Drawn is 1 - sigma_2 / sigma_1, the gap in units of sigma_1, from the proved upper end of
    sigma_2: one dot per mask, A and B of a module in one column. The short bar through it goes from
    the Ramanujan bound (a mask below is not Ramanujan) up to the limit (no mask of that shape is
    above). For the other singular values see `spectra`.

    Parameters
    ----------
    plan : MaskPlan, or mapping from names to certificates or biregular masks
        Names that end in ``.A`` and ``.B`` are paired. Masks are certified first.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without one.

    Raises
    ------
    InvalidInputError
        There is nothing in the plan, or a mask that `certify` does not take.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from expandermask import MaskPlan
    >>> from expandermask.plots.plans import spectral_gaps
    >>> plan = MaskPlan.for_shapes({"query": (96, 96), "value": (96, 96)}, r=16, rng=0)
    >>> [line.get_label() for line in spectral_gaps(plan).get_lines()]
    ['A', 'B']
    """
    if not isinstance(plan, Mapping):
        raise InvalidInputError(
            f"plan must be a MaskPlan or a mapping from names to masks, got {type(plan).__name__}; "
            "a single mask is drawn by spectrum_against_bound"
        )
    masks = plan.certify() if isinstance(plan, MaskPlan) else dict(plan)
    if not masks:
        raise InvalidInputError("the plan is empty; there are no gaps to draw")
    found = {
        name: mask if isinstance(mask, Certificate) else certify(mask)
        for name, mask in masks.items()
    }
    ax = new_axes(ax, size=(11.0, 4.4))
    columns, modules = module_columns(list(found))
    for side, names in by_side(found).items():
        x = np.array([columns[name] for name in names])
        color = SIDES.get(side, VALUES)
        proofs = [found[name] for name in names]
        owed, best = (
            [
                1 - value / math.sqrt(proof.d1 * proof.d2)
                for value, proof in zip(v, proofs, strict=True)
            ]
            for v in ([p.bound for p in proofs], [p.limit for p in proofs])
        )
        gaps = [proof.gap / math.sqrt(proof.d1 * proof.d2) for proof in proofs]
        ax.vlines(x, owed, best, color=color, lw=1.2, alpha=0.45)
        ax.scatter(x, owed, marker="_", s=30, color=BOUND)
        ax.scatter(x, best, marker="_", s=30, color=LIMIT)
        ax.plot(x, gaps, "o", ms=3.5, color=color, label=side or "mask")
    ax.scatter([], [], marker="_", s=60, color=LIMIT, label="limit: no mask is above")
    ax.scatter([], [], marker="_", s=60, color=BOUND, label="Ramanujan bound")
    label_modules(ax, modules)
    ax.margins(y=0.12)
    ax.set_ylabel(r"proved gap $(\sigma_1 - \sigma_2) / \sigma_1$")
    ax.set_title(f"Spectral gaps of {len(found)} masks", loc="left")
    legend_above(ax)
    return ax


def legend_above(ax: Axes) -> None:
    """The legend above the right end of the axes, off the dots; the title stands on the left."""
    ax.legend(
        fontsize="small",
        ncols=4,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.4,
    )


def by_side(names: Any) -> dict[str, list[str]]:
    """The names of masks of A, of B, and under "" those of neither; without empty groups."""
    sides: dict[str, list[str]] = {}
    for side in (*SIDES, ""):
        group = [name for name in names if _split(name)[1] == side]
        if group:
            sides[side] = group
    return sides


def module_columns(names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """Where each mask goes on the x axis, and the modules in the order of their columns.

    A and B of module k stand a little left and right of k.
    """
    modules = list(dict.fromkeys(_split(name)[0] for name in names))
    place = {module: k for k, module in enumerate(modules)}
    shift = {"A": -0.16, "B": 0.16, "": 0.0}
    halves = [_split(name) for name in names]
    return {
        name: place[module] + shift[side]
        for name, (module, side) in zip(names, halves, strict=True)
    }, modules


def label_modules(ax: Axes, modules: Sequence[str]) -> None:
    """Name the columns: each module where there is room, else the layers their names count.

    The layer of a module is the first part of its dotted name that is a number.
    """
    ax.set_xlim(-0.7, len(modules) - 0.3)
    layers = [layer_number(module) for module in modules]
    starts = [k for k, layer in enumerate(layers) if k == 0 or layer != layers[k - 1]]
    if len(modules) <= _MOST_LABELS:
        ax.set_xticks(range(len(modules)), shortened(modules), rotation=45, ha="right")
        ax.set_xlabel("module")
    elif None in layers or len(starts) == 1:
        ax.set_xlabel(f"module, of {len(modules)}")
    else:
        for k in starts[1:]:
            ax.axvline(k - 0.5, color="0.9", lw=0.6, zorder=0)
        middles = [
            (a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], len(modules)], strict=True)
        ]
        step = -(-len(starts) // _MOST_LABELS)
        ax.set_xticks(middles[::step], [str(layers[k]) for k in starts[::step]])
        per_layer = len(modules) / len(starts)
        each = f", {per_layer:g} modules in each" if per_layer.is_integer() else ""
        ax.set_xlabel(f"layer{each}")


def _split(name: str) -> tuple[str, str]:
    """A mask's module and side; the side is "" of a name that ends in neither."""
    module, dot, side = name.rpartition(".")
    return (module, side) if dot and side in SIDES else (name, "")


def shortened(modules: Sequence[str]) -> list[str]:
    """The names without the leading parts that all of them share."""
    parts = [module.split(".") for module in modules]
    shared = 0
    while all(len(p) > shared + 1 and p[: shared + 1] == parts[0][: shared + 1] for p in parts):
        shared += 1
    return [".".join(p[shared:]) for p in parts]
