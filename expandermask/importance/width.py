"""width_bound(): how wide theorem 4.1 of Partial-LoRA wants a randomly masked adapter to be.

The theorem (after "Why random pruning is all we need to start sparse" and "Most activation
functions can win the lottery without excessive depth") says that a network whose residuals are
masked entry by entry, with probability p, holds with probability 1 - delta a subnetwork within eps
of a target, if it is wide enough. Its constant C is not given, so what can be used is how the bound
scales. It masks entries of the residual, not rows and columns of its factors; and it speaks of
layers one after another, which a transformer's are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expandermask.errors import InvalidInputError, check_real
from expandermask.importance.batches import batch_list, device_of, on_device, require_eval
from expandermask.importance.weights import oriented, target_weights
from expandermask.masks.places import bare_modules
from expandermask.tables import Tabled, text_table

_ROUNDS = 1000


@dataclass(frozen=True)
class LayerSize:
    """What the bound needs to know of one layer of the target network."""

    width: int
    """n_T,l, its neurons."""
    norm: float
    """The largest sum of absolute weights of a neuron, its row-sum norm."""
    input_norm: float
    """B_(l-1), the largest sum of absolute features that goes in."""
    parameters: int
    """Its nonzero weights."""


@dataclass(frozen=True)
class WidthBound(Tabled):
    """The bound for every layer, and what went in."""

    widths: tuple[float, ...]
    """n_LoRA,l of every layer: at least so many neurons."""
    errors: tuple[float, ...]
    """eps_l, what each layer may contribute."""
    rho: float
    eps: float
    delta: float
    constant: float
    gamma: float

    def rows(self) -> list[tuple[str, str]]:
        """Every layer's width and error."""
        head = [
            ("eps, delta", f"{self.eps:g}, {self.delta:g}"),
            ("C, gamma", f"{self.constant:g}, {self.gamma:g}"),
            ("rho", f"{self.rho:.4g}"),
        ]
        return head + [
            (f"layer {i}", f"width {w:,.1f}, eps_l {e:.3g}")
            for i, (w, e) in enumerate(zip(self.widths, self.errors, strict=True), 1)
        ]

    def __str__(self) -> str:
        return text_table(self.rows())


def width_bound(
    layers: Sequence[LayerSize],
    densities: float | Sequence[float],
    *,
    eps: float,
    delta: float,
    constant: float = 1.0,
    gamma: float = 0.0,
) -> WidthBound:
    """n_LoRA,l >= C n_T,l log(1 / min(eps_l, delta / rho)) / log(1 / (1 - p_(l+1))).

    With L layers, as the paper's appendix A has them,

        1 / eps_l = n_LoRA,L L / eps (1 + B_(l-1)) (1 + eps / L) prod_k (||W_k||_inf + eps / L)
        rho = C (N / log(1 / (1 - min p)))^(1 + gamma) log(1 / min(eps_1, ..., eps_L, delta))

    with the product over l < k < L, N being the target's nonzero parameters. The width of the last
    layer stands in eps_l, so all are solved for at once, by iteration from the target's widths; the
    solution is the least one. No layer is narrower than the target's.

    Parameters
    ----------
    layers : sequence of LayerSize
        The target's layers in order; `layer_sizes` measures them.
    densities : float or sequence of float
        p, one for all, or p_2 to p_(L+1), in (0, 1): the masked network has a layer more, and layer
        l is bounded by the density of the one after it.
    eps, delta : float
        Error and probability of failure, in (0, 1).
    constant : float
        C, which the theorem leaves open: 1 unless given.
    gamma : float
        At least 0.

    Raises
    ------
    InvalidInputError
        Values out of range, or no finite solution.

    Examples
    --------
    >>> from expandermask.importance.width import LayerSize, width_bound
    >>> layers = [LayerSize(64, 1.0, 1.0, 4096)] * 2
    >>> one, other = (width_bound(layers, p, eps=0.1, delta=0.1).widths[0] for p in (0.5, 0.25))
    >>> round(other / one, 2)
    2.57
    """
    _require_sizes(layers)
    numbers = _densities(densities, len(layers))
    constant, gamma = check_real("constant", constant), check_real("gamma", gamma)
    eps, delta = check_real("eps", eps), check_real("delta", delta)
    for name, value in (("eps", eps), ("delta", delta)):
        if not 0 < value < 1:
            raise InvalidInputError(f"{name} must lie in (0, 1), got {value!r}")
    if not 0 < constant < math.inf or not 0 <= gamma < math.inf:
        raise InvalidInputError(
            f"constant > 0 and gamma >= 0, both finite, got {constant!r} and {gamma!r}"
        )
    _require_sound(layers)
    widths = [float(layer.width) for layer in layers]
    try:
        for _ in range(_ROUNDS):
            before = widths
            widths, errors, rho = _step(layers, numbers, before, eps, delta, constant, gamma)
            if not all(math.isfinite(width) for width in widths):
                break
            if all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(widths, before, strict=True)):
                return WidthBound(tuple(widths), tuple(errors), rho, eps, delta, constant, gamma)
    except (OverflowError, ZeroDivisionError):  # of numbers beyond those of floats
        pass
    raise InvalidInputError(
        "the widths grow without end; use fewer layers, smaller norms, or a smaller gamma"
    )


def _step(
    layers: Sequence[LayerSize],
    densities: list[float],
    widths: list[float],
    eps: float,
    delta: float,
    constant: float,
    gamma: float,
) -> tuple[list[float], list[float], float]:
    """The widths asked for if the last one is that of ``widths``; with eps_l and rho."""
    total = sum(layer.parameters for layer in layers)
    strengths = [-math.log1p(-p) for p in densities]
    errors = [_error(layers, i, widths[-1], eps) for i in range(len(layers))]
    power = (total / min(strengths)) ** (1 + gamma)
    rho = constant * power * math.log(1 / min(*errors, delta))
    asked = [
        max(
            float(layer.width),
            constant * layer.width / strength * math.log(1 / min(error, delta / rho)),
        )
        for layer, strength, error in zip(layers, strengths, errors, strict=True)
    ]
    return asked, errors, rho


def _require_sizes(layers: Sequence[LayerSize]) -> None:
    odd = next((layer for layer in layers if not isinstance(layer, LayerSize)), None)
    if odd is not None:
        raise InvalidInputError(
            "layers must be a sequence of LayerSize, such as list(layer_sizes(model, "
            f"batches).values()), and has {odd!r:.60}"
        )


def _require_sound(layers: Sequence[LayerSize]) -> None:
    for i, layer in enumerate(layers):
        numbers = layer.norm, layer.input_norm, layer.parameters
        if layer.width < 1 or not all(0 <= x < math.inf for x in numbers):
            raise InvalidInputError(
                f"layers[{i}] must have a width of at least 1, and norms and parameters that are "
                f"finite and at least 0, got {layer}"
            )
    if not any(layer.parameters for layer in layers):
        raise InvalidInputError("layers have no nonzero parameters; the target computes nothing")


@torch.no_grad()
def layer_sizes(
    model: nn.Module, batches: Iterable[Any], target_modules: str | Iterable[str] = "all-linear"
) -> dict[str, LayerSize]:
    """Width, norm and largest input of every target module, the latter over these batches.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; called with each batch, as a mapping by keywords.
    batches : iterable
        Inputs, as the model takes them.
    target_modules : str or iterable of str
        As in `find_targets`.

    Raises
    ------
    InvalidInputError
        No batches, a model in training mode, or inputs of a module that are not finite.
    AdapterError
        No module matches, or one is quantized.
    """
    require_eval(model, "layer_sizes")
    weights, modules = target_weights(model, target_modules), dict(bare_modules(model))
    largest = dict.fromkeys(weights, 0.0)

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            features = args[0] if args else kwargs.get("input")
            if isinstance(features, Tensor) and features.is_floating_point() and features.numel():
                norm = float(features.abs().sum(dim=-1, dtype=torch.float64).max())
                if not math.isfinite(norm):
                    raise InvalidInputError(f"an input of {name!r} has NaN or infinite entries")
                largest[name] = max(largest[name], norm)

        return hook

    handles = [
        modules[name].register_forward_pre_hook(watch(name), with_kwargs=True) for name in weights
    ]
    try:
        for batch in map(lambda b: on_device(b, device_of(model)), batch_list(batches)):
            model(**batch) if isinstance(batch, dict) else model(batch)
    finally:
        for handle in handles:
            handle.remove()
    sizes = {}
    for name, weight in weights.items():
        w = oriented(modules[name], weight)
        norm = float(w.abs().sum(dim=1, dtype=torch.float64).max())
        sizes[name] = LayerSize(len(w), norm, largest[name], int(w.count_nonzero()))
    return sizes


def _error(layers: Sequence[LayerSize], i: int, last_width: float, eps: float) -> float:
    """eps_l of layer i + 1."""
    depth = len(layers)
    later = math.prod(layer.norm + eps / depth for layer in layers[i + 1 : depth - 1])
    bracket = (1 + layers[i].input_norm) * (1 + eps / depth) * later
    return eps / (last_width * depth) / bracket


def _densities(densities: float | Sequence[float], depth: int) -> list[float]:
    if depth == 0:
        raise InvalidInputError("layers is empty; give at least one")
    several = list(densities) if isinstance(densities, Iterable) else [densities] * depth
    if len(several) != depth:
        raise InvalidInputError(f"densities must be one, or one for each of {depth} layers")
    found = [check_real("a density", p) for p in several]
    if bad := [p for p in found if not 0 < p < 1]:
        raise InvalidInputError(
            f"densities must lie in (0, 1), got {bad[0]!r}: nothing is masked at 1, and the "
            "theorem's bound is zero there"
        )
    return found
