"""What an adapter costs beside dense LoRA, parameter_report(), and does, residual_norms().

Counts follow from the shapes alone, so they hold for models on the meta device too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from expandermask.adapters.attachment import attachment, masked_layers
from expandermask.adapters.config import AdapterConfig
from expandermask.adapters.files.stored import value_shapes
from expandermask.adapters.layers.factors import index_of
from expandermask.masks.adapter_file import adapter_metadata
from expandermask.masks.peft_file import PEFT_METADATA, export_metadata, factor_shapes, peft_name
from expandermask.masks.plan import MaskPlan
from expandermask.masks.targets import grouped
from expandermask.safetensors_header import TensorShape, float32_file_size

VALUE_BYTES = 4
ADAMW_MOMENTS = 2


@dataclass(frozen=True)
class AdapterCost:
    """What training and storing one kind of adapter takes; values are float32."""

    trainable_values: int
    gradient_bytes: int
    """One gradient per value."""
    optimizer_bytes: int
    """AdamW's two moments per value; its step counters, 4 bytes a tensor, are not counted."""
    file_bytes: int
    """Exact size of ``adapter_model.safetensors`` without modules to save: for a masked adapter the
    values, the config, and the recipe and hash of every mask; for a plan without a model, with the
    config that `attach` gives it."""
    index_bytes: int
    """Buffers that say where the values sit; rebuilt from the plan, never saved or trained."""


@dataclass(frozen=True)
class ParameterReport:
    """Costs of a masked adapter and of dense LoRA of the same ranks on the same modules.

    ``print`` shows a table; `to_dict` gives plain numbers.
    """

    modules: int
    r: int
    """The largest rank of a module."""
    left_degree: int | None
    """None where the masks are not of one degree."""
    masked: AdapterCost
    lora: AdapterCost
    saved_values: int
    """Trainable values of modules to save and of biases, which either adapter would add."""
    export_bytes: int
    """Exact size of the tensor file of `export_peft` without modules to save, values float32; for a
    plan without a model, if all of its modules are linear."""
    compact_export_bytes: int
    """The same with ``compact=True``."""
    adjusted: dict[str, str]
    """What was done to modules that have no masks of the rank asked for, if the plan was made so by
    ``infeasible``; empty for plans that were read from a file."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            ("trainable values", "trainable_values"),
            ("gradient bytes", "gradient_bytes"),
            ("AdamW state bytes", "optimizer_bytes"),
            ("adapter file bytes", "file_bytes"),
            ("index buffer bytes", "index_bytes"),
        ]
        lines = [
            f"{self.modules} modules, r={self.r}, left_degree={self.left_degree}",
            f"{'':<20}{'masked':>16}{'dense LoRA':>16}{'ratio':>9}",
        ]
        for label, name in rows:
            ours, dense = getattr(self.masked, name), getattr(self.lora, name)
            ratio = f"{ours / dense:>9.4f}" if dense else f"{'-':>9}"
            lines.append(f"{label:<20}{ours:>16,}{dense:>16,}{ratio}")
        if self.saved_values:
            lines.append(f"{'modules to save':<20}{self.saved_values:>16,}{self.saved_values:>16,}")
        lines.append(
            f"export_peft writes {self.export_bytes:,} bytes, "
            f"with compact=True {self.compact_export_bytes:,}"
        )
        if self.adjusted:
            lines.append(f"no masks of the rank asked for: {grouped(self.adjusted)}")
        return "\n".join(lines)


def parameter_report(subject: MaskPlan | nn.Module, *, name: str | None = None) -> ParameterReport:
    """Trainable values, gradient, AdamW, file and index bytes of an adapter and of dense LoRA.

    Parameters
    ----------
    subject : MaskPlan or torch.nn.Module
        A plan (for instance ``MaskPlan.for_model(model)`` with the model on the meta device) or a
        model with adapters attached, whose modules to save are then counted as well.
    name : str, optional
        Which adapter of the model, if several are active.

    Raises
    ------
    AdapterError
        A model without adapters, or without one of that name.

    Examples
    --------
    >>> from expandermask import MaskPlan
    >>> from expandermask.adapters import parameter_report
    >>> plan = MaskPlan.for_shapes({"query": (768, 768)}, r=8, left_degree=2, rng=0)
    >>> print(parameter_report(plan))
    1 modules, r=8, left_degree=2
                                  masked      dense LoRA    ratio
    trainable values               3,072          12,288   0.2500
    gradient bytes                12,288          49,152   0.2500
    AdamW state bytes             24,576          98,304   0.2500
    adapter file bytes            13,480          49,392   0.2729
    index buffer bytes             3,072               0        -
    export_peft writes 50,392 bytes, with compact=True 50,392
    """
    saved_values = 0
    tables: set[str] = set()
    if isinstance(subject, MaskPlan):
        plan, config = subject, AdapterConfig.of_plan(subject)
    else:
        name, adapter = attachment(subject).adapter(name)
        plan, config = adapter.plan, adapter.config
        layers = masked_layers(subject, name)
        tables = {place for place, layer in layers.items() if layer.is_embedding}
        saved_values = sum(
            p.numel()
            for head in adapter.heads.values()
            for p in head.parameters()
            if p.is_floating_point()
        ) + sum(bias.numel() for bias in attachment(subject).biases(name).values())
    dense: dict[str, TensorShape] = {
        peft_name(place, side): shape
        for place, pair in plan.items()
        for side, shape in (("A", (pair.r, pair.shape[1])), ("B", (pair.shape[0], pair.r)))
    }
    written = export_metadata(plan, config.to_dict())
    exports = [
        float32_file_size(factor_shapes(plan, compact=compact, tables=tables), written)
        for compact in (False, True)
    ]
    indices = sum(index_of(g).nbytes for pair in plan.values() for g in (pair.a, pair.b))
    return ParameterReport(
        modules=len(plan),
        r=plan.r,
        left_degree=plan.left_degree,
        masked=_cost(value_shapes(plan), index_bytes=indices, metadata=_document_of(plan, config)),
        lora=_cost(dense, index_bytes=0, metadata=PEFT_METADATA),
        saved_values=saved_values,
        export_bytes=exports[0],
        compact_export_bytes=exports[1],
        adjusted=dict(plan.adjusted),
    )


@torch.no_grad()
def residual_norms(model: nn.Module, *, name: str | None = None) -> dict[str, float]:
    """The Frobenius norm of every module's update, scale * gamma * B diag(g) A.

    Parameters
    ----------
    model : torch.nn.Module
        With adapters attached.
    name : str, optional
        Which of them, if several are active.

    Returns
    -------
    dict of str to float
        By module, in the model's order.

    Raises
    ------
    AdapterError
        A model without adapters, or without one of that name.

    Notes
    -----
    ||B A||^2 is the sum of (B' B) * (A A') entry by entry, so the update itself is never made: O((d
    + k) r^2) for each module, in float64.

    Examples
    --------
    >>> import torch
    >>> from expandermask.adapters import AdapterConfig, attach, residual_norms
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    >>> _ = attach(model, AdapterConfig(r=8), rng=0)
    >>> residual_norms(model)
    {'0': 0.0}
    """
    name, _ = attachment(model).adapter(name)
    norms = {}
    for place, layer in masked_layers(model, name).items():
        adapter = layer.adapter(name)
        a, b = (factor.double() for factor in adapter.factors())
        square = float(((b.t() @ b) * (a @ a.t())).sum())
        norms[place] = adapter.scale * math.sqrt(max(square, 0.0))
    return norms


def _document_of(plan: MaskPlan, config: AdapterConfig) -> dict[str, str]:
    """The metadata of the file, with other hashes of the same length."""
    tensors = {name: ("F32", shape) for name, shape in value_shapes(plan).items()}
    hashes = dict.fromkeys(tensors, "0" * 64)
    return adapter_metadata(config.to_dict(), plan.to_dict(), tensors, hashes)


def _cost(
    shapes: dict[str, TensorShape], *, index_bytes: int, metadata: dict[str, str] | None = None
) -> AdapterCost:
    values = sum(math.prod(shape) for shape in shapes.values())
    return AdapterCost(
        trainable_values=values,
        gradient_bytes=values * VALUE_BYTES,
        optimizer_bytes=values * VALUE_BYTES * ADAMW_MOMENTS,
        file_bytes=float32_file_size(shapes, metadata),
        index_bytes=index_bytes,
    )
