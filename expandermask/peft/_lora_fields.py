"""The fields of ``peft.LoraConfig`` that masked LoRA takes only at the value that means nothing.

A call that was written for `LoraConfig` then works with `XoraConfig`. Any other value is refused,
and `INSTEAD`, the one table of what XoRA has not, says what to use instead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from peft import LoraRuntimeConfig, PeftConfig

from expandermask.errors import InvalidInputError

_LORA = "use peft.LoraConfig, which has it"
_FIRST_VALUES = "use init_lora_weights=True or False, or peft.LoraConfig"

INSTEAD = {
    "use_rslora": (
        'use scaling="matched" and multiply lora_alpha by sqrt(r): the first step is then as large '
        "as that of dense LoRA with use_rslora=True"
    ),
    "loftq_config": _FIRST_VALUES,
    "eva_config": _FIRST_VALUES,
    "corda_config": _FIRST_VALUES,
    "lora_ga_config": _FIRST_VALUES,
    "use_dora": _LORA,
    "use_qalora": _LORA,
    "use_bdlora": _LORA,
    "megatron_config": _LORA,
    "velora_config": _LORA,
    "monteclora_config": _LORA,
    "kasa_config": _LORA,
    "arrow_config": _LORA,
    "alora_invocation_tokens": _LORA,
    "lora_bias": 'use bias="xora_only", which trains the biases of the adapted modules',
    "layer_replication": "copy the layers in the model first, and adapt the result",
    "trainable_token_indices": "use target_modules or modules_to_save with the embedding's name",
    "target_parameters": "use target_modules for linear modules, or peft.LoraConfig for experts",
    "ensure_weight_tying": "use the name of one of the tied modules only, or peft.LoraConfig",
}
"""What to use instead, by the name of the field that must be None, False or empty."""


@dataclass
class LoraFields(PeftConfig):
    """LoRA's fields that have no effect here, each with the value that means nothing.

    Those that are not in `INSTEAD` take any value: LoRA too reads them only beside another field,
    and ``fan_in_fan_out`` is read off the module.
    """

    fan_in_fan_out: bool = False
    megatron_core: str | None = "megatron.core"
    qalora_group_size: int = 16
    runtime_config: LoraRuntimeConfig = field(default_factory=LoraRuntimeConfig)
    use_rslora: bool = False
    loftq_config: Any = None
    eva_config: Any = None
    corda_config: Any = None
    lora_ga_config: Any = None
    use_dora: bool = False
    use_qalora: bool = False
    use_bdlora: Any = None
    megatron_config: dict[str, Any] | None = None
    velora_config: Any = None
    monteclora_config: Any = None
    kasa_config: Any = None
    arrow_config: Any = None
    alora_invocation_tokens: list[int] | None = None
    lora_bias: bool = False
    layer_replication: list[tuple[int, int]] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    target_parameters: list[str] | None = None
    ensure_weight_tying: bool = False

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what XoRA has not, also when it is set later."""
        if name in INSTEAD and value:
            raise InvalidInputError(
                f"{name}={value!r:.80} is not supported by XoraConfig, which takes only "
                f"{getattr(LoraFields, name)}; {INSTEAD[name]}"
            )
        super().__setattr__(name, value)

    def _register_custom_module(self, mapping: object) -> None:
        raise InvalidInputError(
            "_register_custom_module is not supported by XoraConfig: LoRA's layers have no masks; "
            f"{_LORA}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields that have an effect: those of the subclass and of every method of PEFT."""
        unused = {f.name for f in fields(LoraFields)} - {f.name for f in fields(PeftConfig)}
        return {name: value for name, value in asdict(self).items() if name not in unused}
