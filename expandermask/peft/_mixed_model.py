"""PeftMixedModel with XoRA: masked adapters beside LoRA, LoHa, LoKr and PEFT's other kinds.

PEFT keeps closed lists of the methods that a mixed model takes. `take_part` adds XoRA to them.
"""

from __future__ import annotations

from typing import Any

from peft import mixed_model
from peft.tuners import mixed
from peft.tuners.mixed import model as lists
from torch import nn

from expandermask.adapters.attachment import is_attached, record
from expandermask.peft._config import XORA, XoraConfig
from expandermask.peft._layer import XoraLayer
from expandermask.peft._tuner import XoraModel, attachment_of, with_own_seed


class MixedXoraModel(lists.MixedModel):
    """A ``MixedModel`` that takes `XoraConfig` too.

    Masks are made module by module, so a rank that does not fit one is refused when that module's
    turn comes, as PEFT does with other methods.
    """

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Put a new adapter of any kind on the model."""
        config = self.peft_config[adapter_name]
        if isinstance(config, XoraConfig):
            config = with_own_seed(self.peft_config, adapter_name)
            model = self.model  # a PeftMixedModel gives itself, whose modules have longer names
            attachment_of(model).plans[adapter_name] = config.make_plan({}, config.mask_seed)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _create_and_replace(self, config: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(config, XoraConfig):
            XoraModel._create_and_replace(self, config, *args, **kwargs)
        else:
            super()._create_and_replace(config, *args, **kwargs)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model: nn.Module = super()._unload_and_optionally_merge(*args, **kwargs)
        if is_attached(model):
            record(model, None)
        return model


def take_part() -> None:
    """Add XoRA to what ``get_peft_model(..., mixed=True)`` takes, once."""
    if XORA in lists.COMPATIBLE_TUNER_TYPES:
        return
    lists.COMPATIBLE_TUNER_TYPES += (XORA,)
    mixed.COMPATIBLE_TUNER_TYPES = lists.COMPATIBLE_TUNER_TYPES
    lists.PREFIXES.append(XoraModel.prefix)
    lists.Configs |= XoraConfig
    lists.Layers += (XoraLayer,)
    mixed_model.MixedModel = MixedXoraModel
