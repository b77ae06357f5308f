"""PeftAttachment: the record of adapters that PEFT holds, for everything that works on adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import nn

from expandermask.adapters.attachment import Attachment
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.layers.factors import index_of
from expandermask.inspection.xora_folder import seed_in
from expandermask.masks.places import placed_modules
from expandermask.masks.plan import MaskPlan
from expandermask.peft._config import XoraConfig
from expandermask.peft._layer import XoraAdapter


class PeftAttachment(Attachment):
    """What PEFT's tuner leaves on the model it adapts. PEFT's own state is asked, never copied."""

    model: Any

    def xora_config(self, name: str) -> XoraConfig:
        """PEFT's config of an adapter."""
        return cast(XoraConfig, self.model.peft_config[name])

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the adapters that run in some layer."""
        names = [name for layer in self.layers.values() for name in layer.having(layer.active)]
        return tuple(dict.fromkeys(names))

    def config(self, name: str) -> AdapterConfig:
        """An adapter's config, with those modules to save that the model has."""
        wanted = self.xora_config(name).modules_to_save or ()
        heads = self.heads(name)
        saved = [
            item for item in wanted if any(f".{place}".endswith(f".{item}") for place in heads)
        ]
        degree = self.plans[name].left_degree
        config = self.xora_config(name).adapter_config()
        return replace(config, left_degree=degree, modules_to_save=saved)

    def heads(self, name: str) -> dict[str, nn.Module]:
        """An adapter's modules to save, by place: the copies in PEFT's wrappers."""
        found = {}
        for place, wrapper in placed_modules(self.model):
            copies = wrapper._modules.get("modules_to_save")
            if isinstance(copies, nn.ModuleDict) and name in copies:
                found[place] = copies[name]
        return found

    def replace(self, name: str, plan: MaskPlan, config: AdapterConfig) -> None:
        """Say that an adapter has other masks, in its config too: files are loaded by that."""
        self.plans[name] = plan
        self.xora_config(name).mask_plan = plan.to_dict()
        for place in plan:
            adapter = self.layers[place].adapter(name)
            cast(XoraAdapter, adapter).belong(self, name, place, plan)

    def drop(self, place: str, name: str) -> None:
        """Take an adapter off one module; PEFT's layer stays around it."""
        del self.layers[place].adapters[name]

    def reseed(self, name: str, place: str, mark: bytes) -> None:
        """Give an adapter the masks of the seed in a mark, if ``mark`` is theirs at ``place``."""
        config = self.xora_config(name)
        if config.mask_plan is not None:
            return
        shapes = {place: pair.shape for place, pair in self.plans[name].items()}
        before = self.plans[name]
        seed = seed_in(mark)
        self.plans[name] = config.make_plan(shapes, seed)
        if not cast(XoraAdapter, self.layers[place].adapter(name)).has_masks_of(mark):
            self.plans[name] = before
            return
        config.mask_seed = seed
        for own, pair in self.plans[name].items():
            adapter = cast(XoraAdapter, self.layers[own].adapter(name))
            adapter.index_a = index_of(pair.a).to(adapter.index_a.device)
            adapter.index_b = index_of(pair.b).to(adapter.index_b.device)
            adapter.belong(self, name, own, self.plans[name])
