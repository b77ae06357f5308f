"""XoraLayer: a module with masked adapters by name, the way PEFT's tuners have them.

The computing and merging are `expandermask.adapters.layers.compute` and `merging`; here is PEFT's
bookkeeping: which adapters there are, which are active, merged or disabled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from expandermask.adapters.layers.adapter import MaskedAdapter, value_dtype
from expandermask.adapters.layers.compute import adapted_embedding, adapted_linear
from expandermask.adapters.layers.masked import weight_of
from expandermask.adapters.layers.merging import merge_into, plain_weight, restore
from expandermask.errors import AdapterError, FileFormatError
from expandermask.graphs.random import derive_seed, draw_seed
from expandermask.inspection.xora_folder import mask_hash
from expandermask.masks.plan import MaskPair
from expandermask.masks.targets import Shape, is_conv1d
from expandermask.peft._config import XoraConfig


class XoraAdapter(MaskedAdapter):
    """A `MaskedAdapter` whose state dict also holds the hash of its masks.

    Files hold values but no masks, which follow from the config. The hash, 32 bytes, makes sure
    that values are only ever put on the masks they were trained on.
    """

    mask_sha256: Tensor

    def __init__(self, what: str, pair: MaskPair, **settings: Any) -> None:
        super().__init__(pair, **settings)
        digest = mask_hash(pair)
        device = self.index_a.device
        self.register_buffer(
            "mask_sha256", torch.tensor(list(digest), dtype=torch.uint8).to(device)
        )
        self.what = what
        self.register_load_state_dict_pre_hook(_require_same_masks)


def _require_same_masks(
    adapter: XoraAdapter, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Refuse values that were trained on other masks than the adapter has."""
    if not any(f"{prefix}{name}" in state_dict for name in ("values_a", "values_b")):
        return
    found = state_dict.get(f"{prefix}mask_sha256")
    if found is None or not torch.equal(found.cpu(), adapter.mask_sha256.cpu()):
        raise FileFormatError(
            f"the values of {adapter.what!r} were trained on other masks than this adapter's "
            f"(their hash {'is missing' if found is None else 'differs'}): the file is not of the "
            "same mask_seed, mask_method, r, left_degree and module names"
        )


class XoraLayer(nn.Module, BaseTunerLayer):
    """A frozen linear module, Conv1D or embedding with masked adapters by name, PEFT's way.

    ``what`` is the module's name in the model, for errors.
    """

    adapter_layer_names: tuple[str, ...] = ("xora_adapter",)

    # What BaseTunerLayer provides, since PEFT is not typed:
    weight: Tensor
    active_adapters: list[str]
    get_base_layer: Callable[[], nn.Module]

    def __init__(self, base_layer: nn.Module, what: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.what = what
        self.xora_adapter = nn.ModuleDict()
        self.out_features, self.in_features = shape_of(self.get_base_layer(), what)
        self.merged_adapters: list[str] = []
        self.backups: list[tuple[list[str], Tensor]] = []
        """For each merge the adapters merged at once and the weight's entries under them."""
        self.cast_input_dtype_enabled = True  # asked for by peft.helpers; nothing to cast here
        self.train(base_layer.training)

    def add(self, adapter_name: str, pair: MaskPair, config: XoraConfig) -> None:
        """Put a new adapter beside the others; `BaseTuner` then says which of them are active."""
        weight = self.weight
        adapter = XoraAdapter(
            self.what,
            pair,
            scale=config.scale,
            dropout=config.lora_dropout,
            seed=derive_seed(draw_seed(config.mask_seed), self.what, "A", "values"),
            device=weight.device,
            dtype=value_dtype(weight),
            embedding=self.is_embedding,
        )
        self.xora_adapter[adapter_name] = adapter.train(self.training)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base's output plus the updates of the active adapters that are not merged."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        running = [] if self.disable_adapters or self.merged else self.chosen(self.active_adapters)
        if not running:
            output: Tensor = self.base_layer(x, *args, **kwargs)
            return output
        compute = adapted_embedding if self.is_embedding else adapted_linear
        return compute(self.base_layer, running, x)

    def chosen(self, names: list[str]) -> list[XoraAdapter]:
        """The adapters of these names that this layer has."""
        return [
            cast(XoraAdapter, self.xora_adapter[name])
            for name in names
            if name in self.xora_adapter
        ]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the active, or the named, adapters to the base weight.

        Raises `AdapterError` if the weight is quantized or, with ``safe_merge``, would get infinite
        or NaN entries; it is then unchanged.
        """
        names = check_adapters_to_merge(self, adapter_names)
        names = [name for name in names if name in self.xora_adapter]
        if not names:
            return
        weight = plain_weight(self.get_base_layer(), self.what)
        old = merge_into(
            weight,
            self.chosen(names),
            transposed=self.is_transposed,
            safe=safe_merge,
            what=self.what,
        )
        self.backups.append((names, old))
        self.merged_adapters = [*self.merged_adapters, *names]

    def unmerge(self, down_to: int = 0) -> None:
        """Undo merges, the last one first: the base weight gets its own bits back.

        ``down_to`` is the number of merges to keep.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while len(self.backups) > down_to:
            names, old = self.backups.pop()
            weight = self.weight
            restore(
                weight, self.chosen(names), old.to(weight.device), transposed=self.is_transposed
            )
            self.merged_adapters = self.merged_adapters[: -len(names)]

    def get_delta_weight(self, adapter: str) -> Tensor:
        """The dense update of one adapter, scale included, laid out as the base weight is."""
        update = self.chosen([adapter])[0].delta()
        return update.t() if self.is_transposed else update

    @property
    def is_embedding(self) -> bool:
        """Whether the base looks its inputs up by number."""
        return isinstance(self.get_base_layer(), nn.Embedding)

    @property
    def is_transposed(self) -> bool:
        """Whether the base stores its weight as (k, d): Conv1D, and a table of k rows."""
        return self.is_embedding or is_conv1d(self.get_base_layer())

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """PEFT would cast to the base's dtype too, and half-precision values train badly."""
        for adapter in self.chosen([adapter_name]):
            if not any(parameter.is_meta for parameter in adapter.parameters()):
                adapter.to(device or self.weight.device)

    def __repr__(self) -> str:
        return f"xora.{super().__repr__()}"


def shape_of(module: nn.Module, what: str) -> Shape:
    """(d, k) of a linear module, Conv1D or embedding; `AdapterError` for anything else.

    An embedding that scales its rows or renormalises its table is refused: an update merged into
    it would not be the update beside it.
    """
    if isinstance(module, nn.Embedding):
        if module.max_norm is not None or hasattr(module, "embed_scale"):
            raise AdapterError(
                f"the embedding {what!r} scales or renormalises its rows (embed_scale, max_norm), "
                "so no update can be added to them; leave it out of target_modules"
            )
        return module.embedding_dim, module.num_embeddings
    if is_conv1d(module):
        inputs, outputs = weight_of(module).shape
        return int(outputs), int(inputs)
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    raise AdapterError(
        f"target_modules names {what!r}, a {type(module).__name__}; only linear modules, "
        "transformers' Conv1D and embeddings can be adapted"
    )
