"""mask_peft(): masks on a LoRA model that PEFT already has, in place.

Each ``lora_A`` and ``lora_B`` keeps its module and its dense ``weight``, which is now rebuilt from
the surviving values, the parameter that trains, by `torch.nn.utils.parametrize`. So gradients and
optimizer state are compact, and entries off the mask are zero whatever the optimizer does. In state
dicts the weight stays dense: what PEFT saves is a stock LoRA checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expandermask.adapters.layers.factors import dense_factor, gather_values, index_of, value_shape
from expandermask.adapters.layers.masked import weight_of
from expandermask.errors import AdapterError, InvalidInputError
from expandermask.graphs.random import RandomState
from expandermask.masks.plan import MaskPlan, Support
from expandermask.masks.targets import Shape

_COMPACT = "parametrizations.weight.original"


class MaskedWeight(nn.Module):
    """The map from a factor's values to its dense weight, and back.

    ``shape`` is the weight's: (r, k) for A, and (d, r), the other way round, for B.
    """

    index: Tensor

    def __init__(self, support: Support, *, side: str, device: torch.device) -> None:
        super().__init__()
        self.side = side
        self.dense_shape = (support.n2, support.n1)
        self.like = torch.empty(value_shape(support), device="meta")
        self.register_buffer("index", index_of(support).to(device), persistent=False)
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def forward(self, values: Tensor) -> Tensor:
        """The dense weight, zero off the mask."""
        dense = dense_factor(values, self.index, self.dense_shape, values.dtype)
        return dense if self.side == "A" else dense.t()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The entries of a dense weight on the mask; the others are dropped."""
        dense = weight if self.side == "A" else weight.t()
        index = self.index.to(weight.device)
        return gather_values(dense, index, self.like.to(weight.dtype)).contiguous()


def mask_peft(
    peft_model: PeftModel,
    plan: MaskPlan | None = None,
    *,
    left_degree: int = 2,
    method: str = "auto",
    adapter: str = "default",
    rng: RandomState = None,
) -> MaskPlan:
    """Put masks on a LoRA adapter of a PEFT model, in place; returns the plan.

    Entries on the masks keep their values; **all others are dropped** and stay zero. Merging,
    disabling, saving and loading go on as before: ``save_pretrained`` writes a stock dense LoRA,
    and a LoRA that is zero off the masks can be loaded into the masked model. Make the optimizer
    afterwards: parameters keep their identity but not their shape. A masked model cannot be pickled
    whole (torch's rule for parametrizations); its state dict can.

    Parameters
    ----------
    peft_model : peft.PeftModel
        With a LoRA adapter on linear modules; the rank is that of its factors.
    plan : MaskPlan, optional
        One mask pair for each adapted module, by its name in the base model. Without one it is
        made here, with ``left_degree``, ``method`` and ``rng`` as in `MaskPlan.for_shapes`.
    adapter : str
        The adapter's name.

    Raises
    ------
    AdapterError
        No LoRA adapter of that name; it is merged, masked already, on an embedding or convolution,
        a variant of LoRA (DoRA), or of several ranks; or the plan is not for its modules. Nothing
        is changed.
    InfeasibleShapeError
        From making the plan.

    Examples
    --------
    >>> import peft, torch
    >>> from expandermask.adapters.peft.mask_peft import mask_peft
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["0"]))
    >>> mask_peft(model, rng=0)
    MaskPlan(1 modules, r=8, left_degree=2, 192 values)
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    192
    >>> model.base_model.model[0].lora_A["default"].weight.count_nonzero()
    tensor(128)
    """
    layers = _lora_layers(peft_model, adapter)
    shapes, r = _shapes(layers, adapter)
    if plan is None:
        plan = MaskPlan.for_shapes(shapes, r=r, left_degree=left_degree, method=method, rng=rng)
    elif rng is not None:
        raise InvalidInputError(f"rng={rng!r} beside a plan: its own seed {plan.seed} is used")
    _require_fit(plan, shapes, r)
    for name, layer in layers.items():
        _mask(layer.lora_A[adapter], plan[name].a, "A")
        _mask(layer.lora_B[adapter], plan[name].b, "B")
    return plan


def unmask_peft(peft_model: PeftModel, *, adapter: str = "default") -> None:
    """Make a masked adapter plain LoRA again, with zeros off the masks that can train.

    Raises `AdapterError` if the adapter is not masked, or is merged.
    """
    layers = _lora_layers(peft_model, adapter, masked=True)
    for layer in layers.values():
        _unmask(layer.lora_A[adapter])
        _unmask(layer.lora_B[adapter])


def _mask(factor: nn.Module, support: Support, side: str) -> None:
    """Parametrize one factor's weight, and keep it dense in state dicts."""
    weight = weight_of(factor)
    weight.grad = None  # of the dense shape
    mask = MaskedWeight(support, side=side, device=weight.device)
    parametrize.register_parametrization(factor, "weight", mask)
    mask.hooks = [
        factor.register_state_dict_post_hook(_write_dense),
        factor.register_load_state_dict_pre_hook(_read_dense),
    ]


def _unmask(factor: nn.Module) -> None:
    """Make the dense weight the parameter again; the Parameter stays the same object.

    By hand, because `parametrize.remove_parametrizations` takes the weight off the module's class,
    which deep copies of the module share.
    """
    for handle in _mask_of(factor).hooks:
        handle.remove()
    values = factor.get_parameter(_COMPACT)
    dense = weight_of(factor).detach().contiguous()
    factor.__class__ = parametrize.type_before_parametrizations(factor)
    del factor.parametrizations
    values.grad = None  # of the compact shape
    values.data = dense
    factor.weight = values


def _mask_of(factor: nn.Module) -> MaskedWeight:
    mask = factor.get_submodule("parametrizations.weight.0")
    if not isinstance(mask, MaskedWeight):
        raise AdapterError(f"a weight has another parametrization, a {type(mask).__name__}")
    return mask


def _write_dense(factor: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """Put the dense weight where the values would be."""
    if state_dict.pop(f"{prefix}{_COMPACT}", None) is not None:
        state_dict[f"{prefix}weight"] = weight_of(factor).detach().contiguous()


def _read_dense(factor: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take the values out of a dense weight, which must be zero elsewhere."""
    weight = state_dict.pop(f"{prefix}weight", None)
    if weight is None:
        return
    mask = _mask_of(factor)
    values = mask.right_inverse(weight)
    if dropped := int(weight.count_nonzero()) - int(values.count_nonzero()):
        raise AdapterError(
            f"{prefix}weight has {dropped} entries other than zero off the mask, which loading "
            "would drop; load it before mask_peft, or after unmask_peft"
        )
    state_dict[f"{prefix}{_COMPACT}"] = values


def _lora_layers(
    peft_model: PeftModel, adapter: str, *, masked: bool = False
) -> dict[str, LoraLayer]:
    """The layers with the adapter by their names in the base model, checked one by one."""
    if not isinstance(peft_model, PeftModel):
        raise AdapterError(f"peft_model must be a peft.PeftModel, got {type(peft_model).__name__}")
    layers = {
        name: layer
        for name, layer in peft_model.get_base_model().named_modules()
        if isinstance(layer, LoraLayer)
        and (adapter in layer.lora_A or adapter in layer.lora_embedding_A)
    }
    if not layers:
        raise AdapterError(
            f"the model has no LoRA adapter {adapter!r}; it has {list(peft_model.peft_config)}"
        )
    for name, layer in layers.items():
        _require_plain(name, layer, adapter)
        if parametrize.is_parametrized(layer.lora_A[adapter], "weight") is not masked:
            raise AdapterError(
                f"adapter {adapter!r} is not masked; call mask_peft first"
                if masked
                else f"adapter {adapter!r} is masked (or parametrized otherwise) already; call "
                "unmask_peft first"
            )
    return layers


def _require_plain(name: str, layer: LoraLayer, adapter: str) -> None:
    """Raise unless the layer is plain LoRA on a linear module, and not merged."""
    if adapter not in layer.lora_A or layer.lora_A[adapter].weight.dim() != 2:
        raise AdapterError(
            f"{name!r} is no linear module; masks go on LoRA of linear modules only: leave it out "
            "of target_modules"
        )
    if adapter in layer.lora_variant:
        raise AdapterError(
            f"{name!r} has a variant of LoRA, {type(layer.lora_variant[adapter]).__name__}; masks "
            "go on plain LoRA only"
        )
    if adapter in layer.merged_adapters:
        raise AdapterError(f"adapter {adapter!r} is merged into {name!r}; call unmerge_adapter()")


def _shapes(layers: dict[str, LoraLayer], adapter: str) -> tuple[dict[str, Shape], int]:
    """(d, k) of every module, and the one rank."""
    shapes = {
        name: (layer.lora_B[adapter].weight.shape[0], layer.lora_A[adapter].weight.shape[1])
        for name, layer in layers.items()
    }
    ranks = {name: int(layer.lora_A[adapter].weight.shape[0]) for name, layer in layers.items()}
    if len(found := set(ranks.values())) > 1:
        raise AdapterError(
            f"adapter {adapter!r} has the ranks {sorted(found)} (rank_pattern); a plan has one rank"
        )
    return shapes, found.pop()


def _require_fit(plan: MaskPlan, shapes: dict[str, Shape], r: int) -> None:
    """The plan is for exactly these modules, of these shapes and this rank."""
    if plan.r != r:
        raise AdapterError(f"the plan has r={plan.r} and the adapter r={r}; they must agree")
    if names := sorted(plan.keys() ^ shapes.keys()):
        where = "plan" if names[0] in plan else "adapter"
        raise AdapterError(f"module {names[0]!r} is only in the {where}; both must name the same")
    for name, pair in plan.items():
        if pair.shape != shapes[name]:
            raise AdapterError(
                f"the plan's masks for {name!r} are for a (d, k) = {pair.shape} weight, and the "
                f"adapter's is {shapes[name]}"
            )
