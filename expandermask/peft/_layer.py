"""XoraLayer: an adapted layer the way PEFT's tuners have them; PeftAttachment: the record of them.

What is here is PEFT's bookkeeping, and what PEFT's files say of masks. Computing and merging are
those of every `AdaptedLayer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from expandermask.adapters.attachment import Attachment, NamedAdapter
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.layers.adapter import MaskedAdapter
from expandermask.adapters.layers.factors import index_of
from expandermask.adapters.layers.masked import AdaptedLayer
from expandermask.errors import AdapterError, FileFormatError
from expandermask.inspection.xora_folder import is_mark_of, mask_mark, seed_in
from expandermask.masks.places import bare_modules, placed_modules
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.peft._config import XoraConfig
from expandermask.peft._mixed import add_updates_by_row, require_rows


class XoraAdapter(MaskedAdapter):
    """A `MaskedAdapter` whose state dict also says which masks its values are for.

    PEFT's files hold values but no masks. The `mask_mark` beside the values makes sure that they
    are put on the masks they were trained on.
    """

    mask_sha256: Tensor

    def __init__(self, pair: MaskPair, **settings: Any) -> None:
        super().__init__(pair, **settings)
        self.register_buffer("mask_sha256", torch.zeros(32, dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_take_up_masks)
        self.register_load_state_dict_pre_hook(_take_up_gates)

    def belong(self, attached: PeftAttachment, name: str, place: str, plan: MaskPlan) -> None:
        """Say whose adapter this is, and by which plan it has its masks."""
        self.attached = attached
        self.name = name
        self.place = place
        mark = mask_mark(plan[place], plan.seed)
        device = self.index_a.device
        self.mask_sha256 = torch.tensor(list(mark), dtype=torch.uint8, device=device)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """Save gates that a policy computes too, as they are in evaluation mode."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for slot, gate in (("rank_gate", self.steady_gate), ("module_gate", self.module_gate)):
            if gate is not None and f"{prefix}{slot}" not in destination:
                destination[f"{prefix}{slot}"] = gate.detach()

    @property
    def configured_scale(self) -> float:
        """The scale that the config gives, whatever it has been multiplied by since."""
        pair = self.attached.plans[self.name][self.place]
        return self.attached.xora_config(self.name).adapter_config().scale_of(self.place, pair)

    def has_masks_of(self, mark: bytes) -> bool:
        """Whether values with this mark were trained on the masks the adapter has."""
        return is_mark_of(self.attached.plans[self.name][self.place], mark)


def _take_up_masks(
    adapter: XoraAdapter, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Make the masks that a state's values were trained on, or refuse the values.

    A resumed run has drawn another seed than the run it goes on with.
    """
    values = {f"{prefix}{side}": getattr(adapter, side) for side in ("lora_A", "lora_B")}
    loaded = [name for name in values if name in state_dict]
    key = f"{prefix}mask_sha256"
    if not loaded:
        return
    if len(loaded) == 1:  # of the other, ignore_mismatched_sizes has taken out: they go together
        del state_dict[loaded[0]], state_dict[key]
        return
    if any(state_dict[name].shape != values[name].shape for name in loaded):
        return  # torch says which sizes differ
    found = bytes(state_dict[key].tolist()) if key in state_dict else None
    if found is not None and not adapter.has_masks_of(found):
        adapter.attached.reseed(adapter.name, adapter.place, found)
    if found is None or not adapter.has_masks_of(found):
        raise FileFormatError(
            f"the values of {adapter.place!r} were trained on other masks than this adapter's "
            f"(their hash {'is missing' if found is None else 'differs'}): the file is not of the "
            "same mask_method, r, left_degree and module names"
        )
    state_dict[key] = adapter.mask_sha256


def _take_up_gates(
    adapter: XoraAdapter, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Put gates of a state that the adapter does not have into their slots, to train on.

    Those that a policy computes are not loaded; the policy has its own state.
    """
    for slot, fill in (
        ("rank_gate", adapter.set_rank_gate),
        ("module_gate", adapter.set_module_gate),
    ):
        key = f"{prefix}{slot}"
        gate = getattr(adapter, slot)
        if gate is not None and not isinstance(gate, nn.Parameter):
            state_dict.pop(key, None)
        elif key in state_dict and gate is None:
            fill(nn.Parameter(torch.zeros_like(state_dict[key]).to(adapter.lora_B.device)))


class PeftAttachment(Attachment):
    """What PEFT's tuner leaves on the model it adapts. PEFT's own state is asked, never copied."""

    model: Any

    def xora_config(self, name: str) -> XoraConfig:
        """PEFT's config of an adapter."""
        return cast(XoraConfig, self.model.peft_config[name])

    @property
    def active(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the adapters that run in some layer."""
        names = [name for layer in self.layers.values() for name in layer.having(layer.active)]
        return tuple(dict.fromkeys(names))

    def named(self, name: str) -> NamedAdapter:
        """An adapter, with those modules to save that the model has: copies in PEFT's wrappers."""
        config = self.xora_config(name)
        wanted = config.modules_to_save or ()
        heads = {}
        saved = set()
        for place, module in placed_modules(self.model):
            copies = module._modules.get("modules_to_save")
            items = [item for item in wanted if f".{place}".endswith(f".{item}")]
            if isinstance(copies, nn.ModuleDict) and name in copies:
                heads[place] = copies[name]
                saved.update(items)
            elif items and not isinstance(module, AdaptedLayer):
                raise AdapterError(
                    f"{place!r} is among modules_to_save, and the {type(module).__name__} there "
                    "is not PEFT's copy: it was replaced since, so PEFT would not save it; put "
                    "the new one in before get_peft_model"
                )
        plan = self.plans[name]
        own = replace(
            config.adapter_config(),
            left_degree=plan.left_degree,
            modules_to_save=[item for item in wanted if item in saved],
        )
        return NamedAdapter(plan, own, heads)

    def biases(self, name: str) -> dict[str, Tensor]:
        """The base's biases that train with an adapter, by full name."""
        kind = self.xora_config(name).bias
        if kind == "none":
            return {}
        every = {
            place: module._parameters.get("bias") for place, module in bare_modules(self.model)
        }
        return {
            f"{place}.bias": bias
            for place, bias in every.items()
            if bias is not None and (kind == "all" or place in self.plans[name])
        }

    def replace(self, name: str, plan: MaskPlan, config: AdapterConfig) -> None:
        """Say that an adapter has other masks, in its config too: files are loaded by that."""
        self.plans[name] = plan
        self.xora_config(name).mask_plan = plan.to_dict()
        for place in plan:
            adapter = self.layers[place].adapter(name)
            cast(XoraAdapter, adapter).belong(self, name, place, plan)

    def reseed(self, name: str, place: str, mark: bytes) -> None:
        """Give an adapter the masks of the seed in a mark, if ``mark`` is theirs at ``place``."""
        config = self.xora_config(name)
        if config.mask_plan is not None:
            return
        shapes = {place: pair.shape for place, pair in self.plans[name].items()}
        seed = seed_in(mark)
        plan = config.make_plan(shapes, seed)
        if not is_mark_of(plan[place], mark):
            return
        if any(name in layer.merged for layer in self.layers.values()):
            raise AdapterError(
                f"adapter {name!r} is merged, and the values to be loaded have other masks; call "
                "unmerge_adapter() first"
            )
        self.plans[name] = plan
        config.mask_seed = seed
        for own, pair in plan.items():
            adapter = cast(XoraAdapter, self.layers[own].adapter(name))
            adapter.index_a = index_of(pair.a).to(adapter.index_a.device)
            adapter.index_b = index_of(pair.b).to(adapter.index_b.device)
            adapter.belong(self, name, own, plan)


class XoraLayer(AdaptedLayer, BaseTunerLayer):
    """A frozen linear module, Conv1D or embedding with masked adapters by name, PEFT's way.

    ``what`` is the module's name in the model, for errors.
    """

    adapter_layer_names: tuple[str, ...] = ("xora_adapter",)
    base_name = "base_layer"

    # What BaseTunerLayer provides, since PEFT is not typed:
    active_adapters: list[str]
    disable_adapters: bool
    get_base_layer: Callable[[], nn.Module]

    def __init__(self, base_layer: nn.Module, what: str, shape: tuple[int, int]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.what = what
        self.xora_adapter = nn.ModuleDict()
        self.out_features, self.in_features = shape
        self.cast_input_dtype_enabled = True  # asked for by peft.helpers; nothing to cast here
        self.train(base_layer.training)

    @property
    def base(self) -> nn.Module:  # type: ignore[override]
        """The module that is adapted, inside other methods' layers too."""
        return self.get_base_layer()

    @property
    def adapters(self) -> nn.ModuleDict:  # type: ignore[override]
        """The adapters by name."""
        return self.xora_adapter

    @property
    def active(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the adapters that run, in this order."""
        return () if self.disable_adapters else tuple(self.active_adapters)

    @property
    def merged_adapters(self) -> list[str]:
        """Names of the adapters that are merged into the base's weight."""
        return list(self.merged)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the module that is adapted, which ``bias="xora_only"`` trains."""
        return getattr(self.base, "bias", None)

    def forward(
        self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """The base's output plus the updates of the active adapters that are not merged.

        With ``adapter_names``, one for each row of the batch, plus the updates of those instead.
        """
        if self.disable_adapters and self.merges:
            self.unmerge()
        if adapter_names is not None and not self.disable_adapters:
            require_rows(self, x, adapter_names)
            out = self.base_layer(x, *args, **kwargs)
            return add_updates_by_row(self, out, x, adapter_names)
        adapters = self.running()
        if not adapters:
            return self.base_layer(x, *args, **kwargs)  # type: ignore[no-any-return]
        return self.updated(x, adapters)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the active, or the named, adapters to the base weight.

        Raises `AdapterError` if the weight is quantized or, with ``safe_merge``, would get infinite
        or NaN entries; it is then unchanged.
        """
        self.merge_in(check_adapters_to_merge(self, adapter_names), what=self.what, safe=safe_merge)

    def unmerge(self) -> None:
        """Undo all merges: the base weight gets its own bits back."""
        if not self.merges:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        self.take_out()

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter off, and its plan off the record; PEFT calls this on every layer."""
        for name in self.having([adapter_name]):
            cast(XoraAdapter, self.adapter(name)).attached.plans.pop(name, None)
        super().delete_adapter(adapter_name)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Make an adapter's scale ``scale`` times what its config gives, if it is in this layer.

        `export_peft` and merging use the changed scale. The config keeps its own, and with it what
        `save_pretrained` and `save_adapter` write.
        """
        for name in self.having([adapter]):
            one = cast(XoraAdapter, self.adapter(name))
            one.scale = float(scale) * one.configured_scale

    def scale_layer(self, scale: float) -> None:
        """Multiply the scales of the active adapters."""
        for name in self.having(self.active_adapters):
            self.adapter(name).scale *= float(scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scales of the active adapters; without a divisor, undo all such changes."""
        for name in self.having(self.active_adapters):
            if scale is None:
                self.set_scale(name, 1)
            else:
                self.adapter(name).scale /= float(scale)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The dense update of one adapter, scale included, laid out as the base weight is.

        It is zero where `prune` has left the adapter no rank, and with it nothing in this layer.
        """
        if adapter in self.adapters:
            update = self.adapter(adapter).delta()
        else:
            update = torch.zeros(self.out_features, self.in_features, device=self.weight.device)
        return update.t() if self.is_transposed else update

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True of linear modules; `AdapterError` for an embedding, whose keys PEFT writes wrong."""
        if self.is_embedding:
            raise AdapterError(
                f"PEFT cannot convert the adapted embedding {self.what!r} to LoRA; "
                "export_peft(model, folder) writes it"
            )
        return True

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """PEFT would cast to the base's dtype too, and half-precision values train badly."""
        for name in self.having([adapter_name]):
            adapter = self.adapter(name)
            if not any(parameter.is_meta for parameter in adapter.parameters()):
                adapter.to(device or self.weight.device)

    def __repr__(self) -> str:
        return f"xora.{super().__repr__()}"
