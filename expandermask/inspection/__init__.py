"""The same questions of a mask from anywhere: an array, a graph, a plan, a file, a checkpoint."""

from expandermask.inspection.checkpoint_report import CheckpointReport
from expandermask.inspection.inspect_mask import inspect_mask
from expandermask.inspection.mask_report import MaskReport, SideReport
from expandermask.inspection.outcomes import MaskOutcomes, ModuleOutcome, mask_outcomes
from expandermask.inspection.products import ProductReport, inspect_product
from expandermask.inspection.symptoms import Symptom

__all__ = [
    "CheckpointReport",
    "MaskOutcomes",
    "MaskReport",
    "ModuleOutcome",
    "ProductReport",
    "SideReport",
    "Symptom",
    "inspect_mask",
    "inspect_product",
    "mask_outcomes",
]
