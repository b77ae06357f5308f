"""XoraConfig: masked LoRA described the way PEFT describes its methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelCard
from peft.utils import PeftType

from expandermask.adapters.config import AdapterConfig
from expandermask.errors import InvalidInputError
from expandermask.files import write_text
from expandermask.graphs.catalog import METHODS
from expandermask.graphs.random import draw_seed
from expandermask.masks.plan import MaskPlan
from expandermask.masks.ranks import Ranks
from expandermask.masks.targets import Shape
from expandermask.peft._lora_fields import LoraFields

T = TypeVar("T")


def _extended(name: str) -> PeftType:
    """The member ``name`` of PEFT's enum of methods, made if it is not there.

    An enum with members cannot be subclassed, and PEFT registers no method outside it.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


XORA = _extended("XORA")

_HEADING = "## How to load this adapter"
_TEXT = f"""{_HEADING}

PEFT learns of the method XORA from expandermask. Without the import it stops with
`KeyError: 'XORA'`.

```python
import expandermask.peft
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "this folder")
```

For programs without expandermask, `expandermask.peft.export_peft(model, folder)` writes the adapter
as a stock LoRA folder.
"""
"""What the model card of a folder says: PEFT writes one without a word of the import it needs."""

_TAGS = ("lora", "xora")
"""What a search on the hub finds an adapter by, beside PEFT's own tags."""
_BIASES = ("none", "all", "xora_only", "lora_only")
_LATER: dict[str, object] = {
    "mask_plan": None,
    "rank_pattern": [],
    "alpha_pattern": [],
    "bias": "none",
    "init_lora_weights": True,
    "infeasible": "error",
}
"""Fields that are not always written, and the values that mean nothing."""

Patterns = dict[str, T] | list[tuple[str, T]] | None
"""Numbers by regular expressions for the ends of names, in the order in which they are tried."""
Names = str | list[str] | set[str] | None
"""Module names as PEFT takes them: one regular expression, or a list of name endings."""


@dataclass
class XoraConfig(LoraFields):
    """Masked LoRA for ``peft.get_peft_model``: the fields of `AdapterConfig` under PEFT's names.

    Every other field of ``peft.LoraConfig`` is accepted at the value that means nothing.

    Parameters
    ----------
    r, left_degree : int
        Rank, and entries kept in each column of A and each row of B, 2 <= left_degree <= r.
    lora_alpha, lora_dropout : float
        Numerator of the scale, and probability of dropping an input of the update while training.
    scaling : {"matched", "paper"}
        lora_alpha / sqrt(r * left_degree), or lora_alpha / r; see `AdapterConfig`.
    target_modules : str, list of str or None
        "all-linear" (all linear modules but the head, as `find_targets` has it), a regular
        expression for whole names, or name endings; embeddings by name only. None asks PEFT's table
        of architectures.
    exclude_modules, layers_to_transform, layers_pattern, modules_to_save
        As in ``peft.LoraConfig``.
    rank_pattern, alpha_pattern : dict
        As in ``peft.LoraConfig``: another rank or lora_alpha for modules whose names match.
    bias : {"none", "all", "xora_only"}
        Which biases of the base train: none, all, or those of the adapted modules. "lora_only" is
        another word for the last. They are saved with the adapter.
    init_lora_weights : bool
        False draws both factors at random, so that the update is not zero at first.
    infeasible : {"error", "nearest", "skip"}
        What to do with modules that have no masks of their rank; see `AdapterConfig`.
    mask_method : str
        How masks are made, as in `ramanujan_graph`.
    mask_seed : int, optional
        Seed of all masks and first values, in [0, 2**64). If None, one below 2**53 is drawn from
        torch's CPU generator when a model first gets the adapter, so that `set_seed` fixes it, and
        kept here: masks are not saved but made again from it. Another adapter of the same config
        gets a copy with another seed. Where several processes train, rank 0 draws for all. A state
        that is loaded brings its own seed.
    mask_plan : dict, optional
        The plan of masks that were changed since, as `MaskPlan.to_dict` has it; not to be set by
        hand.

    Raises
    ------
    InvalidInputError
        A value out of range; a field of LoRA that XoRA has not; or ``layers_to_transform`` and
        ``layers_pattern`` used otherwise than PEFT can use them.

    Examples
    --------
    >>> from expandermask.adapters import XoraConfig
    >>> config = XoraConfig(r=32, target_modules=["query", "value"], mask_seed=0)
    >>> config.peft_type.value, config.scale
    ('XORA', 2.0)
    """

    r: int = 64
    left_degree: int = 2
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    scaling: str = "matched"
    target_modules: Names = "all-linear"
    exclude_modules: Names = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: Patterns[int] = field(default_factory=dict)
    alpha_pattern: Patterns[float] = field(default_factory=dict)
    bias: str = "none"
    init_lora_weights: bool = True
    infeasible: str = "error"
    mask_method: str = "auto"
    mask_seed: int | None = None
    mask_plan: dict[str, Any] | None = None
    seed_was_drawn = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = XORA
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                setattr(self, name, set(value))
        self.rank_pattern = dict(self.adapter_config().rank_pattern)
        self.alpha_pattern = dict(self.adapter_config().alpha_pattern)
        if self.mask_method not in METHODS:
            raise InvalidInputError(
                f"mask_method must be one of {METHODS}, got {self.mask_method!r}"
            )
        if self.bias not in _BIASES:
            raise InvalidInputError(f"bias must be one of {_BIASES}, got {self.bias!r}")
        if not isinstance(self.init_lora_weights, bool):
            raise InvalidInputError(
                f"init_lora_weights={self.init_lora_weights!r} is not supported by XoraConfig, "
                "which takes only True and False; use peft.LoraConfig for other first values"
            )
        if self.mask_seed is not None:
            self.mask_seed = draw_seed(self.mask_seed)
        self._check_layers()

    def make_plan(self, shapes: Mapping[str, Shape], seed: int | None) -> MaskPlan:
        """The masks of modules with these (d, k) shapes: those that `attach` would give them."""
        if self.mask_plan is not None:
            plan = MaskPlan.from_dict(self.mask_plan)  # PEFT's files have names in another order
            order = dict.fromkeys([*shapes, *plan])
            pairs = {place: plan[place] for place in order if place in plan}
            return plan.with_masks(pairs, left_degree=plan.left_degree)
        return MaskPlan.for_shapes(
            shapes,
            r=self.r,
            left_degree=self.left_degree,
            rank_pattern=self.rank_pattern or (),
            infeasible=self.infeasible,
            method=self.mask_method,
            rng=seed,
        )

    def adapter_config(self) -> AdapterConfig:
        """The same numbers as an `AdapterConfig`, which checks them."""
        names = self.target_modules
        return AdapterConfig(
            target_modules=names if isinstance(names, str) else sorted(names or ["all-linear"]),
            r=self.r,
            left_degree=self.left_degree,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            scaling=self.scaling,
            rank_pattern=self.rank_pattern or (),
            alpha_pattern=self.alpha_pattern or (),
            modules_to_save=self.modules_to_save or (),
            infeasible=self.infeasible,
        )

    @property
    def ranks(self) -> Ranks:
        """The ranks that are asked for."""
        return Ranks(self.r, self.left_degree, self.rank_pattern or (), self.infeasible)

    @property
    def scale(self) -> float:
        """The factor on B A x."""
        return self.adapter_config().scale

    def to_dict(self) -> dict[str, Any]:
        """The fields, sets in order, so that one config always gives one file.

        Fields that version 0.1.0 had not are left out where they mean nothing. Patterns are lists
        of pairs: their order counts, and PEFT sorts the keys of what it writes.
        """
        fields = super().to_dict()
        for name in ("rank_pattern", "alpha_pattern"):
            fields[name] = list(map(list, fields[name].items()))
        unused = {name for name, nothing in _LATER.items() if fields[name] == nothing}
        return {
            k: sorted(v) if isinstance(v, set) else v for k, v in fields.items() if k not in unused
        }

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the config, and into the folder's model card its tags and how to load it."""
        super().save_pretrained(save_directory, **kwargs)
        path = Path(save_directory) / "README.md"
        card = ModelCard(path.read_text(encoding="utf-8") if path.exists() else "")
        card.data["tags"] = sorted({*(card.data.get("tags") or ()), *_TAGS})
        if _HEADING not in card.text:
            card.text = f"{card.text.rstrip()}\n\n{_TEXT}".lstrip()
        write_text(path, str(card))

    def _check_layers(self) -> None:
        """PEFT looks at these two only together and beside a list."""
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                raise InvalidInputError(
                    f"`{name}` cannot be used when `target_modules` is a str, got "
                    f"{self.target_modules!r}; a regular expression can name the layers itself"
                )
        if self.layers_pattern and self.layers_to_transform is None:
            raise InvalidInputError(
                "When `layers_pattern` is specified, `layers_to_transform` must also be specified. "
                f"Got layers_pattern={self.layers_pattern!r} alone"
            )
