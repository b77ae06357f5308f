"""LoRA's names for what XoRA has, for those of PEFT's tests that read LoRA's own tensors.

LoRA keeps ``layer.lora_A["default"].weight`` where XoRA keeps
``layer.xora_adapter["default"].lora_A``. `translate` gives the tests the one for the other: as an
attribute of a layer, in its repr, in names of parameters, and in state dicts. A state dict of XoRA
also has a hash of the masks; the tests do not see it, and loading puts it back.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from expandermask.peft import XoraConfig, XoraLayer

HASH = ".mask_sha256"
OWN = re.compile(r"xora_adapter\.(?:(\w+)\.)?lora_([AB])$")
LORAS = re.compile(r"lora_([AB])\.(?:(\w+)\.)?weight$|lora_embedding_([AB])\.(\w+)$")


def lora_name(name: str) -> str:
    """LoRA's name of a tensor, with the adapter's name or, as in files, without."""
    return OWN.sub(lambda m: ".".join(filter(None, [f"lora_{m[2]}", m[1], "weight"])), name)


def xora_name(name: str) -> str:
    """XoRA's name of a tensor that LoRA's tests name."""

    def own(match: re.Match[str]) -> str:
        side, adapter = match[1] or match[3], match[2] or match[4]
        return ".".join(filter(None, ["xora_adapter", adapter, f"lora_{side}"]))

    return LORAS.sub(own, name)


class Weight:
    """A factor's values, with the shape that the factor has when it is dense."""

    def __init__(self, layer: XoraLayer, name: str, side: str) -> None:
        config = layer.adapter(name).attached.xora_config(name)
        rank = config.ranks.asked(layer.what)  # the record has the one that was used
        sizes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
        self.shape = sizes[side]
        self.values: nn.Parameter = getattr(layer.adapter(name), f"lora_{side}")

    def __eq__(self, other: Any) -> Any:
        return self.values == other

    def __hash__(self) -> int:
        return id(self)

    @property
    def data(self) -> Tensor:
        """The values, without their history."""
        return self.values.data

    @data.setter
    def data(self, values: Tensor) -> None:
        self.values.data = values

    @property
    def requires_grad(self) -> bool:
        """Whether the values train."""
        return self.values.requires_grad

    @requires_grad.setter
    def requires_grad(self, trains: bool) -> None:
        self.values.requires_grad = trains


class Linear:
    """What LoRA has at ``layer.lora_A["default"]``."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight


class Factors(Mapping[str, Linear]):
    """What LoRA has at ``layer.lora_A``: one factor of every adapter of a layer."""

    def __init__(self, layer: XoraLayer, side: str) -> None:
        self._layer = layer
        self._side = side

    def __getitem__(self, name: str) -> Linear:
        return Linear(Weight(self._layer, name, self._side))

    def __getattr__(self, name: str) -> Linear:
        if name not in self._layer.adapters:
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer.adapters)

    def __len__(self) -> int:
        return len(self._layer.adapters)


def described(layer: XoraLayer) -> str:
    """The layer as LoRA prints its own."""
    names = ", ".join(lora_name(name) for name, _ in layer.named_parameters())
    kind = "Embedding" if layer.is_embedding else "Linear"
    if layer.is_embedding:
        names = names.replace("lora_", "lora_embedding_")
    sizes = f"in_features={layer.in_features}, out_features={layer.out_features}"
    return f"lora.{kind}({layer.base!r}, {sizes}, {names})"


class State(dict[str, Tensor]):
    """The state of an adapter by LoRA's names, with the hashes aside."""

    def __init__(self, own: dict[str, Tensor]) -> None:
        self.hashes = {key: tensor for key, tensor in own.items() if key.endswith(HASH)}
        super().__init__((lora_name(key), own[key]) for key in own if key not in self.hashes)


def saved(*args: Any, **options: Any) -> State:
    """What ``get_peft_model_state_dict`` gives, by LoRA's names."""
    return State(get_peft_model_state_dict(*args, **options))


def loading(plain: Callable[..., Any]) -> Callable[..., Any]:
    """``set_peft_model_state_dict`` for a state by LoRA's names."""

    @functools.wraps(plain)
    def load(model: nn.Module, state: dict[str, Tensor], *args: Any, **options: Any) -> Any:
        if not isinstance(state, State):  # values that the test has made up: of the model's masks
            own = saved(model, adapter_name=options.get("adapter_name", "default"))
            own.update(state)
            state = own
        translated = {xora_name(key): tensor for key, tensor in state.items()}
        return plain(model, {**state.hashes, **translated}, *args, **options)

    return load


def injecting(plain: Callable[..., Any]) -> Callable[..., Any]:
    """``inject_adapter_in_model`` for a state by LoRA's names."""

    @functools.wraps(plain)
    def inject(*args: Any, state_dict: dict[str, Tensor] | None = None, **options: Any) -> Any:
        if state_dict is not None and isinstance(args[0], XoraConfig):
            state_dict = {xora_name(key): tensor for key, tensor in state_dict.items()}
        return plain(*args, state_dict=state_dict, **options)

    return inject


def expecting(plain: Callable[..., None]) -> Callable[..., None]:
    """``check_requires_grad`` of names of parameters that LoRA has."""

    @functools.wraps(plain)
    def check(self: Any, model: nn.Module, *names: str) -> None:
        own = {name for name, _ in model.named_parameters()}
        plain(self, model, *(n if n in own else xora_name(n) for n in names))

    return check


def translate(custom_models: Any, low_level: Any) -> None:
    """Let the tests of these two modules use LoRA's names."""
    XoraLayer.lora_A = property(lambda layer: Factors(layer, "A"))
    XoraLayer.lora_B = property(lambda layer: Factors(layer, "B"))
    XoraLayer.__repr__ = described
    kind = custom_models.TestRequiresGrad
    kind.check_requires_grad = expecting(kind.check_requires_grad)
    low_level.get_peft_model_state_dict = saved
    low_level.set_peft_model_state_dict = loading(low_level.set_peft_model_state_dict)
    low_level.inject_adapter_in_model = injecting(low_level.inject_adapter_in_model)
