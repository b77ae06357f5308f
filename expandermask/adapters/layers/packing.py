"""bitsandbytes' 4-bit weights on CPUs with AVX512-BF16, kept as they were loaded.

There a Linear4bit rearranges its weight when it first runs in eval mode, in place, and rounds its
scales to bfloat16. From then on no gradient passes through it (PyTorch warns, and every adapter
before it stays untrained), and `state_dict` puts the scales back in another order (0.50.2). So a
model with adapters computes in the layout it was loaded in.
"""

from __future__ import annotations

from torch import nn

from expandermask.errors import AdapterError

_SWITCH = "support_avx512bf16_for_cpu"
"""bitsandbytes' attribute on each module: whether it may rearrange its weight."""


def require_unpacked(model: nn.Module) -> None:
    """Raise `AdapterError` if a weight of ``model`` was rearranged already."""
    for name, module in model.named_modules():
        state = getattr(module._parameters.get("weight"), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise AdapterError(
                f"bitsandbytes has packed the 4-bit weight of {name!r} for inference on this CPU, "
                "as it does at the first evaluation, and no gradient passes through it; load the "
                "model again and put the adapter on before it is evaluated"
            )


def forbid_packing(model: nn.Module) -> dict[str, int]:
    """Keep every weight in the layout it has; the switches turned off by this, by module name."""
    found = {n: m for n, m in model.named_modules() if getattr(m, _SWITCH, False)}
    switches = {name: getattr(module, _SWITCH) for name, module in found.items()}
    for module in found.values():
        setattr(module, _SWITCH, False)
    return switches


def allow_packing(model: nn.Module, switches: dict[str, int]) -> None:
    """Turn the switches back on, where the modules are still in the model."""
    modules = dict(model.named_modules())
    for name, switch in switches.items():
        if hasattr(modules.get(name), _SWITCH):
            setattr(modules[name], _SWITCH, switch)
