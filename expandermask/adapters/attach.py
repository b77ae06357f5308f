"""attach() and detach() put adapters on a model and take them off; the others say which run.

Everything is checked before anything is changed: a refusal leaves the model as it was.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from expandermask.adapters.attachment import (
    OwnAttachment,
    attachment,
    is_attached,
    masked_layers,
    own_attachment,
    record,
    swap_module,
)
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.pretrained import write_own_names, write_plain_names
from expandermask.adapters.fit import check_fit
from expandermask.adapters.layers.adapter import MaskedAdapter, value_dtype
from expandermask.adapters.layers.masked import AdaptedLayer, masked_layer
from expandermask.adapters.layers.quantized import (
    forbid_packing,
    put_marks_back,
    set_packing,
    weight_of,
)
from expandermask.adapters.training.distributed import same_seed
from expandermask.adapters.training.first_pass import look_at_first_pass
from expandermask.errors import AdapterError, InvalidInputError
from expandermask.graphs.random import RandomState, derive_seed
from expandermask.masks.places import (
    bare_module,
    module_at,
    placed_modules,
    placed_parameters,
    put_module,
    unwrapped,
)
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.masks.ranks import unmatched

Kind = TypeVar("Kind", bound=MaskedAdapter)


def attach(
    model: nn.Module,
    adapter: MaskPlan | AdapterConfig,
    *,
    config: AdapterConfig | None = None,
    name: str = "default",
    rng: RandomState = None,
    progress: bool = False,
) -> MaskPlan:
    """Put a masked adapter on ``model``, in place, and freeze everything else.

    Either give a plan, ``attach(model, plan)`` or ``attach(model, plan, config=...)``, or only a
    config, ``attach(model, AdapterConfig(r=64), rng=0)``, and the plan is made here. The model
    computes what it did before, since B starts at zero. On a model that has adapters already,
    another is added under its own ``name``; it waits until `set_adapters` makes it active.

    Parameters
    ----------
    model : torch.nn.Module
        Its target modules (nn.Linear, quantized linear layers, transformers Conv1D, nn.Embedding)
        are wrapped in a `MaskedLinear` or `MaskedEmbedding`.
    adapter : MaskPlan or AdapterConfig
        A plan names its modules itself, so ``target_modules`` is not looked at beside one.
    config : AdapterConfig, optional
        Beside a plan: scale, dropout and modules to save; r and left_degree must be the plan's.
    name : str
        What the adapter is called, without dots.
    rng : None, int or numpy.random.Generator
        Seed of a plan made here, masks and initial values both; beside a plan it is refused,
        since the plan has its own. Where torch.distributed runs, None is rank 0's draw everywhere.
    progress : bool
        Show a progress bar while masks are made.

    Returns
    -------
    MaskPlan
        The plan in use.

    Raises
    ------
    AdapterError
        No module matches; the name is taken, or its adapter is merged; the plan does not fit the
        model; a target weight is tied to another parameter, has no storage (meta device), is
        sharded (FSDP2), or sits where its module is not called; a module to save is missing, tied,
        quantized, or overlaps a target; bitsandbytes has packed a 4-bit weight for inference; the
        model is in DistributedDataParallel.
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
    ['0.adapters.default.lora_A', '0.adapters.default.lora_B']
    """
    require_free(model, name)
    if isinstance(adapter, AdapterConfig):
        if config is not None:
            raise InvalidInputError("config was given twice; give a plan first, or only a config")
        config = adapter
        if config.left_degree is None:
            raise InvalidInputError("left_degree=None goes with a plan; without one give a number")
        plan = MaskPlan.for_model(
            model,
            target_modules=config.target_modules,
            exclude_modules=config.exclude_modules,
            modules_to_save=config.modules_to_save,
            r=config.r,
            left_degree=config.left_degree,
            rank_pattern=config.rank_pattern,
            infeasible=config.infeasible,
            rng=same_seed(rng),
            progress=progress,
        )
        _warn_of_unmatched(config, [*plan, *plan.adjusted])
    else:
        plan = adapter
        config = _config_for(plan, config, rng)
    saved = check_fit(model, {place: pair.shape for place, pair in plan.items()}, config)
    _put_on(model, name, plan, config, saved)
    return plan


@contextmanager
def attaching(model: nn.Module, plan: MaskPlan, config: AdapterConfig, name: str) -> Iterator[None]:
    """Attach an adapter, and take it off again if the block that fills it fails."""
    undo = (lambda: delete_adapter(model, name)) if is_attached(model) else lambda: detach(model)
    attach(model, plan, config=config, name=name)
    try:
        yield
    except BaseException:  # the device is out of memory, or the user out of patience
        undo()
        raise


def detach(model: nn.Module, *, keep_merged: bool = False) -> None:
    """Take all adapters off again.

    The original modules, the very same objects, return to their places, every parameter gets its
    ``requires_grad`` back, and merged weights get their values back bit for bit.

    Parameters
    ----------
    keep_merged : bool
        Leave the merged weights, and the active adapters' trained modules to save, in the model: a
        plain model that computes as the adapted one does. Needs `merge` first.

    Raises
    ------
    AdapterError
        No adapters are attached, or ``keep_merged=True`` on a model that is not merged.
    """
    attached = own_attachment(model)
    active = [layer for layer in attached.layers.values() if layer.having(attached.active)]
    if keep_merged and not all(layer.merges for layer in active):
        raise AdapterError("keep_merged=True needs a merged model; call merge(model) first")
    live = dict(placed_modules(model))
    for place, layer in attached.layers.items():
        if not keep_merged:
            layer.take_out()
        if live.get(place) is layer:  # else the model has something of its own there by now
            put_module(model, place, layer.base)
    if not keep_merged:
        put_marks_back(attached.model, attached.marks)
        for place, module in attached.originals.items():
            swap_module(model, place, module)
    for key, parameter in placed_parameters(model):
        parameter.requires_grad_(attached.requires_grad.get(key, parameter.requires_grad))
    set_packing(model, attached.packing)
    write_own_names(attached)
    record(model, None)


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """The names of all adapters on ``model``, in the order they came; none is an AdapterError."""
    return tuple(attachment(model).plans)


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """The names of the adapters that run; AdapterError if ``model`` has none."""
    return attachment(model).active


def set_adapters(model: nn.Module, names: str | Iterable[str]) -> None:
    """Let the named adapters run, their updates added up, and only them train.

    An adapter that is not active is frozen, and so are its modules to save, which then are not in
    the model: of each such module at most one active adapter may have a copy. Optimizers keep to
    the parameters they were given, so after a switch make a new one.

    Raises
    ------
    AdapterError
        No adapters are attached, a name is unknown, two of them save the same module, or adapters
        are merged.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, active_adapters, attach, set_adapters
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8), name="news", rng=0)
    >>> _ = attach(model, AdapterConfig(r=16), name="films", rng=1)
    >>> active_adapters(model)
    ('news',)
    >>> set_adapters(model, ["news", "films"])
    >>> active_adapters(model)
    ('news', 'films')
    """
    attached = own_attachment(model)
    chosen = (names,) if isinstance(names, str) else tuple(names)
    if len(set(chosen)) != len(chosen) or not chosen:
        raise InvalidInputError(f"names must be at least one and no name twice, got {chosen!r}")
    savers: dict[str, str] = {}
    for name in chosen:
        for place in attached.adapter(name)[1].heads:
            if place in savers:
                raise AdapterError(
                    f"{savers[place]!r} and {name!r} both save {place!r}; only one of them can be "
                    "active"
                )
            savers[place] = name
    _require_unmerged(model)
    attached.run(chosen)


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as it did before any adapter, to the bit.

    Merged updates are taken out for its duration and put in again afterwards. Adapters may be
    added, deleted or detached in it; afterwards those run, merged or not as before, that were
    active and are still there. Raises `AdapterError` if no adapters are attached.
    """
    attached = own_attachment(model)
    merged = {layer: layer.weight.dtype for layer in masked_layers(model).values() if layer.merges}
    active = attached.active
    try:
        for layer in merged:
            layer.take_out()
        attached.run(())
        yield
    finally:
        if is_attached(model) and attachment(model) is attached:
            left = tuple(name for name in active if name in attached.plans)
            for layer in masked_layers(model).values():
                layer.take_out()
            fallback = () if not active else (next(iter(attached.plans)),)
            attached.run(left or fallback)
            for layer, dtype in merged.items():
                layer.merge_in(left, what="", safe=False, dequantize=dtype)


def delete_adapter(model: nn.Module, name: str) -> None:
    """Remove one of several adapters; if it was the only active one, the first other runs.

    Raises `AdapterError` if there is none of that name, it is the last one (`detach` takes that
    off), or adapters are merged.
    """
    attached = own_attachment(model)
    attached.adapter(name)
    _require_unmerged(model)
    if len(attached.plans) == 1:
        raise AdapterError(f"{name!r} is the last adapter; detach(model) takes it off")
    if name in attached.active:
        others = tuple(n for n in attached.active if n != name)
        attached.run(others or (next(n for n in attached.plans if n != name),))
    for place in masked_layers(model, name):
        attached.drop(place, name)
    attached.take_up_heads()
    for kept in (attached.plans, attached.configs, attached.copies):
        del kept[name]
    saved = {place for copies in attached.copies.values() for place in copies}
    for place in attached.originals.keys() - saved:
        swap_module(model, place, attached.originals.pop(place))


def require_free(model: nn.Module, name: str) -> None:
    """Raise unless an adapter called ``name`` could be added to ``model``."""
    if not isinstance(model, nn.Module):
        raise AdapterError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, DistributedDataParallel):
        raise AdapterError(
            "model is wrapped in DistributedDataParallel, which averages the gradients of the "
            "parameters it was given and of none that come later; attach to the plain model first"
        )
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
        raise InvalidInputError(
            "an adapter's name must be a string without dots that is no attribute of "
            f"torch.nn.ModuleDict, got {name!r}"
        )
    if not is_attached(model):
        inside = [n for n, m in placed_modules(model) if isinstance(m, AdaptedLayer)]
        if inside:
            raise AdapterError(
                f"{type(model).__name__} already has {len(inside)} adapters attached inside it "
                f"(the first at {inside[0]!r}); use the model given to that attach(), or detach it"
            )
        return
    attached = own_attachment(model)
    if name in attached.plans:
        raise AdapterError(
            f"{type(model).__name__} already has an adapter {name!r} attached "
            f"({len(attached.layers)} modules); choose another name, or call delete_adapter or "
            "detach(model) first"
        )
    _require_unmerged(model)


def _require_unmerged(model: nn.Module) -> None:
    if any(layer.merges for layer in masked_layers(model).values()):
        raise AdapterError("adapters are merged into the model; call unmerge(model) first")


def _warn_of_unmatched(config: AdapterConfig, names: list[str]) -> None:
    """Say which parts of the patterns are for no module, as PEFT does."""
    for field in ("rank_pattern", "alpha_pattern"):
        if keys := unmatched(getattr(config, field), names):
            warnings.warn(f"{field} matches no module with {keys}", stacklevel=3)


def _config_for(plan: object, config: AdapterConfig | None, rng: RandomState) -> AdapterConfig:
    """The config beside a given plan, the default one if none was given."""
    if not isinstance(plan, MaskPlan):
        raise InvalidInputError(f"expected a MaskPlan or an AdapterConfig, got {plan!r:.80}")
    if rng is not None:
        raise InvalidInputError(f"rng={rng!r} beside a plan: its own seed {plan.seed} is used")
    if config is None:
        return AdapterConfig.of_plan(plan)
    if not isinstance(config, AdapterConfig):
        raise InvalidInputError(f"config must be an AdapterConfig, got {config!r:.80}")
    if not config.fits({place: pair.r for place, pair in plan.items()}, plan.left_degree):
        raise AdapterError(
            f"config has r={config.r}, left_degree={config.left_degree}, and the plan r={plan.r}, "
            f"left_degree={plan.left_degree}; they must agree"
        )
    return config


def _put_on(
    model: nn.Module, name: str, plan: MaskPlan, config: AdapterConfig, saved: tuple[str, ...]
) -> None:
    """Build everything new, then freeze the model and put it in."""
    first = not is_attached(model)
    attached = OwnAttachment(unwrapped(model)) if first else own_attachment(model)
    attached.take_up_heads()
    built: dict[str, MaskedAdapter] = {
        place: new_adapter(bare_module(module_at(model, place)), place, pair, plan, config)
        for place, pair in plan.items()
    }
    originals = {place: attached.originals.get(place, module_at(model, place)) for place in saved}
    copies = {place: _trainable_copy(original) for place, original in originals.items()}
    if first:
        attached.packing = forbid_packing(model)
        model.requires_grad_(False)
        record(model, attached)
        write_plain_names(attached)
    for place, adapter in built.items():
        layer = attached.layers.get(place)
        if layer is None:
            layer = masked_layer(module_at(model, place))
            put_module(model, place, layer)
            attached.layers[place] = layer
        layer.adapters[name] = adapter.train(layer.training)
    attached.originals |= originals
    attached.plans[name] = plan
    attached.configs[name] = config
    attached.copies[name] = copies
    # None may be active for another reason than that there was none: see `disable_adapters`.
    attached.run((name,) if first else attached.active)
    look_at_first_pass(attached)


def new_adapter(
    base: nn.Module,
    place: str,
    pair: MaskPair,
    plan: MaskPlan,
    config: AdapterConfig,
    kind: type[Kind] = MaskedAdapter,  # type: ignore[assignment]
    *,
    zero: bool = True,
) -> Kind:
    """The adapter of one module, with its first values: they follow from the plan's seed."""
    weight = weight_of(base)
    return kind(
        pair,
        scale=config.scale_of(place, pair),
        dropout=config.lora_dropout,
        seed=derive_seed(plan.seed, place, "A", "values"),
        device=weight.device,
        dtype=value_dtype(weight),
        embedding=isinstance(base, nn.Embedding),
        zero=zero,
    )


def _trainable_copy(module: nn.Module) -> nn.Module:
    """A copy to train: flags as the parameters' kinds allow."""
    twin = copy.deepcopy(module)
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return twin
