"""AdapterConfig: the choices behind a masked adapter, checked once and then fixed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from expandermask.errors import FileFormatError, InvalidInputError, check_integer, check_real
from expandermask.files import require_fields
from expandermask.graphs.biregular import BiregularGraph
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.masks.targets import Names

SCALINGS = ("matched", "paper")


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

    def __post_init__(self) -> None:
        degree = self.left_degree
        if degree is not None:
            degree = check_integer("left_degree", degree, minimum=2)
        checked = {
            "r": check_integer("r", self.r, minimum=1 if degree is None else 2),
            "left_degree": degree,
            "lora_alpha": check_real("lora_alpha", self.lora_alpha),
            "lora_dropout": check_real("lora_dropout", self.lora_dropout),
            "target_modules": _check_names("target_modules", self.target_modules, minimum=1),
            "modules_to_save": _check_names("modules_to_save", self.modules_to_save, pattern=False),
            "exclude_modules": _check_names("exclude_modules", self.exclude_modules),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if degree is not None and degree > self.r:
            raise InvalidInputError(f"left_degree must be at most r = {self.r}, got {degree}")
        if not 0 < self.lora_alpha < math.inf:
            raise InvalidInputError(
                f"lora_alpha must be positive and finite, got {self.lora_alpha}"
            )
        if not 0 <= self.lora_dropout < 1:
            raise InvalidInputError(f"lora_dropout must lie in [0, 1), got {self.lora_dropout}")
        if self.scaling not in SCALINGS:
            raise InvalidInputError(f"scaling must be one of {SCALINGS}, got {self.scaling!r}")

    @classmethod
    def of_plan(cls, plan: MaskPlan) -> AdapterConfig:
        """The config of a plan that comes without one: its rank, degree and modules."""
        return cls(r=plan.r, left_degree=plan.left_degree, target_modules=tuple(plan))

    @property
    def scale(self) -> float:
        """The factor on B A x where every row of B keeps ``left_degree``: see ``scaling``.

        Raises `InvalidInputError` where there is no left degree; `scale_of` a pair then says.
        """
        if self.left_degree is None:
            raise InvalidInputError("a config without left_degree has a scale for each module only")
        return self._scale(self.left_degree)

    def scale_of(self, pair: MaskPair) -> float:
        """The factor on B A x for one module's masks.

        Where the rows of B differ, ``left_degree`` in the formula is the mean over rows not empty,
        and 1 where all are.
        """
        if isinstance(pair.b, BiregularGraph):
            return self._scale(pair.b.d1)
        degrees = pair.b.left_degrees
        return self._scale(float(degrees[degrees > 0].mean()) if degrees.any() else 1.0)

    def _scale(self, degree: float) -> float:
        if self.scaling == "paper":
            return self.lora_alpha / self.r
        return self.lora_alpha / math.sqrt(self.r * degree)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values, without an ``exclude_modules`` that excludes nothing."""
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if not self.exclude_modules:
            del fields["exclude_modules"]
        return fields

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
        if isinstance(data, dict) and "exclude_modules" in data:
            expected["exclude_modules"] = (str, list)
        fields = require_fields(data, expected, "an adapter config")
        try:
            return cls(**fields)
        except InvalidInputError as error:
            raise FileFormatError(f"an adapter config: {error}") from None


def _check_names(name: str, value: Names, *, minimum: int = 0, pattern: bool = True) -> Names:
    """Module names as a tuple, or, if ``pattern`` allows it, one regular expression."""
    if isinstance(value, str) and pattern:
        return value
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidInputError(f"{name} must be a list or tuple of module names, got {value!r}")
    names = tuple(value)
    if not all(isinstance(item, str) and item for item in names):
        raise InvalidInputError(f"{name} must hold non-empty strings, got {list(names)!r}")
    if len(names) < minimum:
        raise InvalidInputError(f"{name} is empty; name at least one module")
    return names
