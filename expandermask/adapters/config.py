"""AdapterConfig: the choices behind a masked adapter, checked once and then fixed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from expandermask.errors import FileFormatError, InvalidInputError, check_integer, check_real
from expandermask.files import require_fields
from expandermask.graphs.biregular import BiregularGraph
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.masks.ranks import Pattern, by_pattern, check_infeasible, check_pattern, exactly
from expandermask.masks.targets import Names

SCALINGS = ("matched", "paper")
_LATER: dict[str, tuple[type | tuple[type, ...], object]] = {
    "exclude_modules": ((str, list), []),
    "rank_pattern": (list, []),
    "alpha_pattern": (list, []),
    "infeasible": (str, "error"),
}
"""Fields that a file may lack: the type of each, and the value that is not written."""


@dataclass(frozen=True)
class AdapterConfig:
    """How to adapt a model: y = base(x) + scale * B A dropout(x), with A and B masked.

    Parameters
    ----------
    r : int
        Rank: rows of A and columns of B; at least 2 with a left degree.
    left_degree : int or None
        Entries kept in each column of A and each row of B, 2 <= left_degree <= r. None only beside
        a plan whose masks are not of one degree.
    lora_alpha : float
        Numerator of the scale, positive. The default 16 is QLoRA's (Dettmers et al. 2023) at every
        rank: the "matched" scaling lets a dense recipe keep its alpha, and 16 is the commonest.
    lora_dropout : float
        Probability, in [0, 1), of dropping an input of the adapter while training.
    target_modules : str or iterable of str
        "all-linear", a regular expression for whole names, or name endings (see `find_targets`).
    scaling : {"matched", "paper"}
        "matched" is lora_alpha / sqrt(r * left_degree): the first gradient step then lowers the
        loss as much as dense LoRA's with its lora_alpha / r does, at every rank. "paper" is XoRA's
        (and LoRA's) lora_alpha / r, under which it is left_degree / r of that. With Adam, whose
        steps do not grow with the gradient, an update as large as LoRA's takes a learning rate
        sqrt(r / left_degree) times LoRA's, or somewhat more.
    modules_to_save : iterable of str
        Names, or name endings, of modules such as a classifier head that stay trainable and are
        saved with the adapter (PEFT's convention).
    exclude_modules : str or iterable of str
        Modules that ``target_modules`` leaves out: a regular expression for whole names, or name
        endings.
    rank_pattern, alpha_pattern : mapping of str to number
        Another rank or lora_alpha for some modules, by regular expressions for the ends of their
        names. The first that matches counts, as in PEFT.
    infeasible : {"error", "nearest", "skip"}
        What to do with modules that have no masks of their rank, for which k * left_degree / r or
        d * left_degree / r is not an integer: raise, take the largest lower rank that works, or
        leave them out. A warning and `parameter_report` say what was done.

    Raises
    ------
    InvalidInputError
        A value outside the ranges above.

    Examples
    --------
    >>> from expandermask.adapters import AdapterConfig
    >>> AdapterConfig(r=32).scale
    2.0
    >>> AdapterConfig(r=32, scaling="paper").scale
    0.5
    """

    r: int = 64
    left_degree: int | None = 2
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    target_modules: Names = "all-linear"
    scaling: str = "matched"
    modules_to_save: Iterable[str] = ()
    exclude_modules: Names = ()
    rank_pattern: Pattern[int] = ()
    alpha_pattern: Pattern[float] = ()
    infeasible: str = "error"

    def __post_init__(self) -> None:
        degree = self.left_degree
        if degree is not None:
            degree = check_integer("left_degree", degree, minimum=2)
        checked = {
            "r": check_integer("r", self.r, minimum=1 if degree is None else 2),
            "left_degree": degree,
            "lora_alpha": _check_alpha("lora_alpha", self.lora_alpha),
            "lora_dropout": check_real("lora_dropout", self.lora_dropout),
            "target_modules": _check_names("target_modules", self.target_modules, minimum=1),
            "modules_to_save": _check_names("modules_to_save", self.modules_to_save, pattern=False),
            "exclude_modules": _check_names("exclude_modules", self.exclude_modules),
            "rank_pattern": check_pattern("rank_pattern", self.rank_pattern, check_integer),
            "alpha_pattern": check_pattern("alpha_pattern", self.alpha_pattern, _check_alpha),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if degree is not None and degree > self.r:
            raise InvalidInputError(f"left_degree must be at most r = {self.r}, got {degree}")
        if not 0 <= self.lora_dropout < 1:
            raise InvalidInputError(f"lora_dropout must lie in [0, 1), got {self.lora_dropout}")
        if self.scaling not in SCALINGS:
            raise InvalidInputError(f"scaling must be one of {SCALINGS}, got {self.scaling!r}")
        check_infeasible(self.infeasible)

    @classmethod
    def of_plan(cls, plan: MaskPlan) -> AdapterConfig:
        """The config of a plan that comes without one: its ranks, degree and modules."""
        lower = {name: pair.r for name, pair in plan.items() if pair.r < plan.r}
        return cls(
            r=plan.r,
            left_degree=plan.left_degree,
            target_modules=tuple(plan),
            rank_pattern=exactly(lower),
        )

    def fits(self, ranks: Mapping[str, int], left_degree: int | None) -> bool:
        """Whether masks of these ranks and this degree are what the config asks for."""
        asked = {name: by_pattern(self.rank_pattern, name, self.r) for name in ranks}
        lower = self.infeasible == "nearest"
        return left_degree == self.left_degree and all(
            rank == asked[name] or (lower and rank < asked[name]) for name, rank in ranks.items()
        )

    @property
    def scale(self) -> float:
        """The factor on B A x where every row of B keeps ``left_degree``: see ``scaling``.

        Raises `InvalidInputError` where there is no left degree; `scale_of` a pair then says.
        """
        if self.left_degree is None:
            raise InvalidInputError("a config without left_degree has a scale for each module only")
        return self._scale(self.lora_alpha, self.r, self.left_degree)

    def scale_of(self, name: str, pair: MaskPair) -> float:
        """The factor on B A x for one module, by the rank of its masks and its own lora_alpha.

        Where the rows of B differ, ``left_degree`` in the formula is the mean over rows not empty,
        and 1 where all are.
        """
        alpha = by_pattern(self.alpha_pattern, name, self.lora_alpha)
        if isinstance(pair.b, BiregularGraph):
            return self._scale(alpha, pair.r, pair.b.d1)
        degrees = pair.b.left_degrees
        degree = float(degrees[degrees > 0].mean()) if degrees.any() else 1.0
        return self._scale(alpha, pair.r, degree)

    def _scale(self, alpha: float, r: int, degree: float) -> float:
        if self.scaling == "paper":
            return alpha / r
        return alpha / math.sqrt(r * degree)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, without those that version 0.1.0 had not and are unused.

        Patterns are lists of pairs: their order counts, and JSON objects have none.
        """
        every = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in every.items() if k not in _LATER or v != _LATER[k][1]}

    @classmethod
    def from_dict(cls, data: object) -> AdapterConfig:
        """Read `to_dict` back; `FileFormatError` unless every field is there and valid."""
        expected: dict[str, type | tuple[type, ...]] = {
            "r": int,
            "left_degree": (int, type(None)),
            "lora_alpha": float,
            "lora_dropout": float,
            "target_modules": (str, list),
            "scaling": str,
            "modules_to_save": list,
        }
        if isinstance(data, dict):
            expected |= {name: kind for name, (kind, _) in _LATER.items() if name in data}
        fields = require_fields(data, expected, "an adapter config")
        try:
            return cls(**fields)
        except InvalidInputError as error:
            raise FileFormatError(f"an adapter config: {error}") from None


def _check_alpha(name: str, value: object) -> float:
    alpha = check_real(name, value)
    if not 0 < alpha < math.inf:
        raise InvalidInputError(f"{name} must be positive and finite, got {alpha}")
    return alpha


def _check_names(name: str, value: Names, *, minimum: int = 0, pattern: bool = True) -> Names:
    """Module names as a tuple, or, if ``pattern`` allows it, one regular expression."""
    if isinstance(value, str) and pattern:
        return value
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InvalidInputError(f"{name} must be a list or tuple of module names, got {value!r}")
    names = tuple(value)
    if not all(isinstance(item, str) and item for item in names):
        raise InvalidInputError(f"{name} must hold non-empty strings, got {list(names)!r}")
    if len(names) < minimum:
        raise InvalidInputError(f"{name} is empty; name at least one module")
    return names
