"""Masked LoRA as a PEFT method: importing this module teaches ``peft`` the type XORA.

``peft.get_peft_model(model, XoraConfig(...))`` then works as for every method of PEFT, and so does
``PeftModel.from_pretrained`` on what it saved. Without the import, loading such a folder stops with
``KeyError: 'XORA'``: import this module, or ``expandermask.adapters.XoraConfig``, first.

PEFT has a closed list of methods, which `expandermask.peft._config` extends; that and the
methods overridden here and in `expandermask.peft._layer` are PEFT's internals, and lean on
nothing else of it. `TESTED_PEFT` says with which versions; importing this beside another warns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper
from peft.utils.peft_types import register_peft_method
from torch import Tensor, nn

from expandermask.adapters.attach import new_adapter
from expandermask.adapters.attachment import attachment, is_attached, record
from expandermask.adapters.layers.quantized import (
    forbid_packing,
    require_unpacked,
    set_packing,
)
from expandermask.adapters.merge import require_untied
from expandermask.adapters.training.distributed import drawn_seed
from expandermask.adapters.training.first_pass import look_at_first_pass
from expandermask.errors import AdapterError
from expandermask.masks.places import place_of, placed_modules
from expandermask.masks.plan import MaskPlan
from expandermask.masks.targets import Shape, target_shape, targets_of_rank
from expandermask.peft._config import XORA, XoraConfig
from expandermask.peft._layer import PeftAttachment, XoraAdapter, XoraLayer
from expandermask.peft._mixed import adapters_by_row
from expandermask.peft._weighted import fill_sum, require_summable, sum_config

__all__ = ["TESTED_PEFT", "XoraConfig", "XoraLayer", "XoraModel"]

TESTED_PEFT = ("0.21",)
"""The minor versions of peft with which this was tested."""
_INSIDE = ".xora_adapter."
"""What stands between the names of a layer and of its adapters in a state dict."""


class XoraModel(BaseTuner):
    """What ``peft.get_peft_model`` puts around a model for a `XoraConfig`.

    ``mask_plans`` holds the `MaskPlan` of each adapter by its name. The adapters are known to
    `expandermask.adapters` as those of `attach` are.

    Examples
    --------
    >>> import peft, torch
    >>> from expandermask.adapters import XoraConfig
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> model = peft.get_peft_model(model, XoraConfig(r=8, mask_seed=0))
    >>> model.base_model.mask_plans
    {'default': MaskPlan(1 modules, r=8, left_degree=2, 192 values)}
    >>> model.print_trainable_parameters()
    trainable params: 192 || all params: 2,272 || trainable%: 8.4507
    """

    prefix: str = "xora_"
    tuner_layer_cls = XoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    # -- putting adapters on -------------------------------------------------------------------

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Make every mask of a new adapter, and only then put it on the model.

        Raises
        ------
        InfeasibleShapeError
            Some module has no masks of this rank and degree; the message has the nearest that work.
        AdapterError
            A target cannot be adapted, or computes without being called; the model is a PeftModel,
            or bitsandbytes has packed its 4-bit weights for inference.
        """
        if isinstance(model, peft.PeftModel):
            raise AdapterError(
                "the model is a PeftModel already; call its add_adapter, or first its "
                "merge_and_unload() or unload()"
            )
        require_unpacked(model)
        attached = attachment_of(model)
        plans = dict(attached.plans)
        attached.packing |= forbid_packing(model)
        try:
            self._plan(model, attached, adapter_name, with_own_seed(self.peft_config, adapter_name))
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            attached.plans = plans
            if not plans:
                set_packing(model, attached.packing)
                record(model, None)
            raise
        look_at_first_pass(attached)

    def _plan(
        self, model: nn.Module, attached: PeftAttachment, adapter_name: str, config: XoraConfig
    ) -> None:
        """Make the masks of a new adapter."""
        self._prepare_adapter_config(config, self.get_model_config(model))
        if str(config.target_modules).lower() == "all-linear":  # as PEFT has it
            config.target_modules = set(_all_linear(model, config))
        shapes = {
            place: _shape(model, place, module)
            for place, module in placed_modules(model)
            if place and self._check_target_module_exists(config, place)
        }
        plan = config.make_plan(shapes, config.mask_seed)
        for place, pair in plan.items():
            if shapes.get(place) != pair.shape:
                raise AdapterError(
                    f"mask_plan has masks for {place!r} of shape {pair.shape}, and the model has "
                    f"{shapes.get(place, 'no such target')}"
                )
        attached.plans[adapter_name] = plan

    @property
    def mask_plans(self) -> dict[str, MaskPlan]:
        """The plan of each adapter by its name."""
        return attachment(self.model).plans

    def _check_target_module_exists(self, config: XoraConfig, key: str) -> Any:
        """Match places, so that what is wrapped around a module is not part of its name."""
        return super()._check_target_module_exists(config, place_of(key))

    def _create_and_replace(
        self,
        peft_config: XoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        place = place_of(current_key)
        attached = attachment_of(self.model)
        plan = _plan_with(attached, adapter_name, peft_config, place, target)
        if place not in plan:  # all of its terms were pruned
            return
        layer = target
        if not isinstance(layer, XoraLayer):
            layer = XoraLayer(target, place, plan[place].shape)
            self._replace_module(parent, target_name, layer, target)
        attached.layers[place] = layer
        adapter = new_adapter(
            layer.base,
            place,
            plan[place],
            plan,
            peft_config.adapter_config(),
            kind=XoraAdapter,
            zero=peft_config.init_lora_weights,
        )
        adapter.belong(attached, adapter_name, place, plan)
        layer.xora_adapter[adapter_name] = adapter.train(layer.training)

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter and its masks off the model; `AdapterError` while it is merged."""
        attached = attachment(self.model)
        if any(adapter_name in layer.merged for layer in attached.layers.values()):
            raise AdapterError(
                f"Cannot delete adapter(s) {[adapter_name]} while they are merged. Please unmerge "
                "them first. Call unmerge_adapter()"
            )
        super().delete_adapter(adapter_name)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Values are float32; without autocasting PEFT promises the base's own dtype."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype:
            for layer in attachment(self.model).layers.values():
                dtype = layer.weight.dtype
                if dtype.is_floating_point and layer.having([adapter_name]):
                    layer.adapter(adapter_name).to(dtype)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        *,
        model: nn.Module,
        config: XoraConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        **_: Any,
    ) -> dict[str, Tensor]:
        """The adapter, whose layers and modules to save are all in their places, and its biases.

        PEFT looks for tensors by the names of modules, which wrappers may keep out of a state dict.
        """
        attached = attachment(model)
        attached.layers_of()
        attached.named(adapter_name)
        found = {key: tensor for key, tensor in state_dict.items() if _INSIDE in key}
        found |= cls._get_learnable_bias_state_dict(model, state_dict, config)
        return found

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """A key in the file: without what is wrapped around the layer now."""
        return super()._remove_adapter_name_from_key(place_of(key), adapter_name)  # type: ignore[no-any-return]

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, *, model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor], **_: Any
    ) -> dict[str, Tensor]:
        """Put the names of wrappers and of the adapter into keys, of gates and biases too.

        PEFT knows the keys of what the model has already.
        """
        root = "base_model.model."
        layers = {
            key.partition(_INSIDE)[0]
            for key in model.state_dict()
            if _INSIDE in key or key.endswith(".bias")
        }
        live = {place_of(layer).removeprefix(root): layer for layer in layers}

        def renamed(key: str) -> str:
            layer, _, name = key.partition(_INSIDE)
            layer = live.get(place_of(layer).removeprefix(root), layer)
            return f"{layer}{_INSIDE}{adapter_name}.{name}" if name else layer

        return {renamed(key): tensor for key, tensor in state_dict.items()}

    # -- merging -------------------------------------------------------------------------------

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """Merge the active, or the named, adapters in every layer, or in none if one refuses."""
        layers = attachment(self.model).layers_of().values()
        before = {layer: len(layer.merges) for layer in layers}
        try:
            super().merge_adapter(adapter_names, safe_merge)
        except BaseException:
            for layer, merges in before.items():
                layer.take_out(down_to=merges)
            raise

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Merge everything before anything is taken apart, so that a refusal changes nothing."""
        if merge:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "All adapters are already merged")
                self.merge_adapter(adapter_names, safe_merge)
                super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        else:
            super()._unload_and_optionally_merge(merge, progressbar)
        set_packing(self.model, attachment(self.model).packing)
        record(self.model, None)
        return self.model  # type: ignore[no-any-return]

    def _check_merge_allowed(self) -> None:
        """A tied weight would take the update to its other places as well."""
        require_untied(self.model, attachment(self.model).layers_of())

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether PEFT can convert the adapter: not if it is on an embedding."""
        return not any(layer.is_embedding for layer in attachment(self.model).layers.values())

    # -- several adapters ------------------------------------------------------------------------

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Let a PeftModel take ``adapter_names``, an adapter or "__base__" for each row."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        with adapters_by_row(self.model, names, kwargs.get("num_beams") or 1):
            yield

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "cat",
        **_: Any,
    ) -> None:
        """Add an adapter whose update is exactly the weighted sum of the others' updates.

        Its rank is the sum of theirs, its scale is 1, and all entries of A and B are kept: it has
        as many values as a dense LoRA of that rank. It is not active yet, and what the others learn
        later does not change it. A module that one of them saves is copied. Nothing happens if
        there is an adapter of that name, as PEFT has it.

        Parameters
        ----------
        adapters : list of str
            The adapters to add up.
        weights : list of float
            The factor on the update of each; negative ones subtract.
        adapter_name : str
            What the sum is called.
        combination_type : {"cat"}
            PEFT's other ways are not exact, or give another adapter than the sum; their options
            have no meaning here.

        Raises
        ------
        AdapterError
            An unknown adapter, another number of weights, another ``combination_type``, or a module
            that several of the adapters save.
        """
        if adapter_name in self.peft_config:
            return
        attached = attachment_of(self.model)
        require_summable(attached, adapters, weights, combination_type)
        self.peft_config[adapter_name] = sum_config(attached, adapters)
        try:
            self.inject_adapter(self.model, adapter_name)
        except BaseException:
            del self.peft_config[adapter_name]
            raise
        fill_sum(attached, adapter_name, adapters, weights)


def attachment_of(model: nn.Module) -> PeftAttachment:
    """The record of the model's adapters; a new one if there is none."""
    if not is_attached(model):
        record(model, PeftAttachment(model))
    found = attachment(model)
    if not isinstance(found, PeftAttachment):
        raise AdapterError(
            "attach() holds the adapters of this model; add another by attach, or detach(model) "
            "first"
        )
    return found


def with_own_seed(configs: dict[str, XoraConfig], name: str) -> XoraConfig:
    """The config of a new adapter, with a seed.

    A seed that was drawn is of one adapter: another one of the same config gets a copy, unless it
    is only to be loaded.
    """
    config = configs[name]
    if config.seed_was_drawn and not config.inference_mode:
        config = copy(config)
        config.mask_seed = None
        configs[name] = config
    if config.mask_seed is None:
        config.mask_seed = drawn_seed("mask_seed")
        config.seed_was_drawn = True
    return config


def _plan_with(
    attached: PeftAttachment, adapter_name: str, config: XoraConfig, place: str, target: nn.Module
) -> MaskPlan:
    """The plan, of which a module is a part that only a state dict names."""
    plan = attached.plans[adapter_name]
    if place not in {**plan, **plan.adjusted} and config.mask_plan is None:
        extra = config.make_plan({place: _shape(attached.model, place, target)}, plan.seed)
        plan = plan.with_masks({**plan, **extra}, left_degree=plan.left_degree)
        attached.plans[adapter_name] = plan
    return plan


def _shape(model: nn.Module, place: str, module: nn.Module) -> Shape:
    """(d, k) of a target, which must be adaptable and called by its parents."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        raise AdapterError(
            f"{place!r} cannot be adapted: another adapter has it among its modules_to_save; leave "
            "it out of target_modules"
        )
    return target_shape(model, place)


def _all_linear(model: nn.Module, config: XoraConfig) -> list[str]:
    """What `attach` means by "all-linear", without the modules that other adapters save."""
    saved = [
        place
        for place, module in placed_modules(model)
        if isinstance(module, AuxiliaryTrainingWrapper)
    ]
    return list(
        targets_of_rank(
            model,
            exclude_modules=config.exclude_modules or (),
            ranks=config.ranks,
            modules_to_save=[*saved, *(config.modules_to_save or ())],
        )
    )


if not peft.__version__.startswith(tuple(f"{minor}." for minor in TESTED_PEFT)):
    warnings.warn(
        f"expandermask's PEFT method XORA was tested with peft {', '.join(TESTED_PEFT)}, and "
        f"this is {peft.__version__}, whose internals may differ",
        stacklevel=2,
    )
if XORA not in PEFT_TYPE_TO_TUNER_MAPPING:  # from an earlier import
    register_peft_method(
        name="xora", config_cls=XoraConfig, model_cls=XoraModel, prefix=XoraModel.prefix
    )
