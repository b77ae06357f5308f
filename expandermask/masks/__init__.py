"""Graph or scores -> 0/1 support, for one matrix or for a whole model."""

from expandermask.masks.files import load_mask, save_mask
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.masks.ramanujan import generate_ramanujan_mask
from expandermask.masks.targets import find_targets

__all__ = [
    "MaskPair",
    "MaskPlan",
    "find_targets",
    "generate_ramanujan_mask",
    "load_mask",
    "save_mask",
]
