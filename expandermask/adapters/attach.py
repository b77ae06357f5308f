"""attach() and detach(): masked layers around a model's linear modules, and their removal.

Everything is checked before anything is changed: a refusal leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.fit import check_fit
from expandermask.adapters.layer import MaskedLinear
from expandermask.errors import AdapterError, InvalidInputError
from expandermask.graphs.random import RandomState, derive_seed
from expandermask.masks.plan import MaskPlan

_RECORD = "_expandermask_attachment"


@dataclass(frozen=True)
class Attachment:
    """What `attach` leaves on a model: the adapter's description and how to undo it."""

    plan: MaskPlan
    config: AdapterConfig
    saved_modules: tuple[str, ...]
    """Full names of the modules that stay trainable and are saved with the adapter."""
    originals: Mapping[str, Tensor] = field(repr=False)
    """Copies of the saved modules' tensors as they were, by full name."""
    requires_grad: Mapping[str, bool] = field(repr=False)
    """The flag every parameter had, by its name before attaching."""

    def __deepcopy__(self, memo: object) -> Attachment:
        """A copied model shares this record: nothing in it ever changes."""
        return self


def attach(
    model: nn.Module,
    adapter: MaskPlan | AdapterConfig,
    *,
    config: AdapterConfig | None = None,
    rng: RandomState = None,
    progress: bool = False,
) -> MaskPlan:
    """Put masked adapters on ``model``, in place, and freeze everything else.

    Either give a plan, ``attach(model, plan)`` or ``attach(model, plan, config=...)``, or only a
    config, ``attach(model, AdapterConfig(r=64), rng=0)``, and the plan is made here. The model
    computes what it did before, since B starts at zero.

    Parameters
    ----------
    model : torch.nn.Module
        Its target modules (nn.Linear, transformers Conv1D) are replaced by `MaskedLinear`.
    adapter : MaskPlan or AdapterConfig
        A plan names its modules itself, so ``target_modules`` is not looked at beside one.
    config : AdapterConfig, optional
        Beside a plan: scale, dropout and modules to save; r and left_degree must be the plan's.
    rng : None, int or numpy.random.Generator
        Seed of a plan made here, masks and initial values both; beside a plan it is refused,
        since the plan has its own.
    progress : bool
        Show a progress bar while masks are made.

    Returns
    -------
    MaskPlan
        The plan in use.

    Raises
    ------
    AdapterError
        No module matches; adapters are already attached; the plan does not fit the model; a target
        weight is tied to another parameter, has no storage (meta device), or sits where its module
        is not called; a module to save is missing, tied, or overlaps a target.
    InfeasibleShapeError
        From making the plan.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh())
    >>> attach(model, AdapterConfig(r=8), rng=0)
    MaskPlan(1 modules, r=8, left_degree=2, 192 values)
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['0.values_a', '0.values_b']
    """
    require_unattached(model)
    if isinstance(adapter, AdapterConfig):
        if config is not None:
            raise InvalidInputError("config was given twice; give a plan first, or only a config")
        config = adapter
        plan = MaskPlan.for_model(
            model,
            target_modules=config.target_modules,
            r=config.r,
            left_degree=config.left_degree,
            rng=rng,
            progress=progress,
        )
    else:
        plan = adapter
        config = _config_for(plan, config, rng)
    saved = check_fit(model, plan, config)
    _replace(model, plan, config, saved)
    return plan


def detach(model: nn.Module, *, keep_merged: bool = False) -> None:
    """Take the adapters off again.

    The original modules, the very same objects, return to their places, every parameter gets its
    ``requires_grad`` back, and weights and modules to save get their values back bit for bit.

    Parameters
    ----------
    keep_merged : bool
        Leave the merged weights and the trained modules to save in the original modules instead:
        a plain model that computes as the adapted one does. Needs `merge` first.

    Raises
    ------
    AdapterError
        No adapters are attached, or ``keep_merged=True`` on a model that is not merged.
    """
    record = attachment(model)
    layers = masked_layers(model)
    if keep_merged and any(layer.backup is None for layer in layers.values()):
        raise AdapterError("keep_merged=True needs a merged model; call merge(model) first")
    for name, layer in layers.items():
        if not keep_merged:
            layer.unmerge()
        _set_module(model, name, layer.base)
    if not keep_merged:
        tensors = saved_tensors(model, record.saved_modules)
        with torch.no_grad():
            for name, original in record.originals.items():
                tensors[name].copy_(original)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(record.requires_grad.get(name, parameter.requires_grad))
    delattr(model, _RECORD)


def attachment(model: nn.Module) -> Attachment:
    """The record of the adapters on ``model``; `AdapterError` if there are none."""
    if not isinstance(model, nn.Module):
        raise AdapterError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    record = getattr(model, _RECORD, None)
    if not isinstance(record, Attachment):
        inside = next(iter(masked_layers(model)), None)
        hint = (
            f"its submodule {inside!r} is an adapter of another attach(); use the model given there"
            if inside is not None
            else "call attach(model, ...) first"
        )
        raise AdapterError(f"{type(model).__name__} has no adapters attached: {hint}")
    return record


def is_attached(model: nn.Module) -> bool:
    """Whether `attach` was called on this very model (and `detach` not since)."""
    return isinstance(getattr(model, _RECORD, None), Attachment)


def masked_layers(model: nn.Module) -> dict[str, MaskedLinear]:
    """Every masked layer of ``model`` by its name, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, MaskedLinear)}


def saved_tensors(model: nn.Module, saved_modules: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters and persistent buffers of the modules to save, by full name."""
    return {
        f"{name}.{key}": tensor
        for name in saved_modules
        for key, tensor in model.get_submodule(name).state_dict(keep_vars=True).items()
    }


def require_unattached(model: nn.Module) -> None:
    """Raise unless ``model`` is a module without adapters."""
    if not isinstance(model, nn.Module):
        raise AdapterError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if layers := masked_layers(model):
        raise AdapterError(
            f"{type(model).__name__} already has {len(layers)} adapters attached (the first at "
            f"{next(iter(layers))!r}); call detach(model) first"
        )


def _config_for(plan: object, config: AdapterConfig | None, rng: RandomState) -> AdapterConfig:
    """The config beside a given plan, the default one if none was given."""
    if not isinstance(plan, MaskPlan):
        raise InvalidInputError(f"expected a MaskPlan or an AdapterConfig, got {plan!r:.80}")
    if rng is not None:
        raise InvalidInputError(f"rng={rng!r} beside a plan: its own seed {plan.seed} is used")
    if config is None:
        return AdapterConfig(r=plan.r, left_degree=plan.left_degree, target_modules=tuple(plan))
    if not isinstance(config, AdapterConfig):
        raise InvalidInputError(f"config must be an AdapterConfig, got {config!r:.80}")
    if (config.r, config.left_degree) != (plan.r, plan.left_degree):
        raise AdapterError(
            f"config has r={config.r}, left_degree={config.left_degree}, and the plan r={plan.r}, "
            f"left_degree={plan.left_degree}; they must agree"
        )
    return config


def _replace(
    model: nn.Module, plan: MaskPlan, config: AdapterConfig, saved: tuple[str, ...]
) -> None:
    """Build every layer, then freeze the model and put the layers in."""
    layers = {
        name: MaskedLinear(
            model.get_submodule(name),
            pair,
            scale=config.scale,
            dropout=config.lora_dropout,
            seed=derive_seed(plan.seed, name, "A", "values"),
        ).train(model.get_submodule(name).training)
        for name, pair in plan.items()
    }
    originals = {
        name: tensor.detach().clone() for name, tensor in saved_tensors(model, saved).items()
    }
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    for name in saved:
        for parameter in model.get_submodule(name).parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    for name, layer in layers.items():
        _set_module(model, name, layer)
    setattr(model, _RECORD, Attachment(plan, config, saved, originals, flags))


def _set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
