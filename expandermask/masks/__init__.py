"""Graph or scores -> 0/1 support, for one matrix or for a whole model; and masks compared."""

from expandermask.masks.compare import OverlapMatrix, compare, overlap_matrix
from expandermask.masks.comparison import Counts, MaskComparison, Overlap, PlanComparison
from expandermask.masks.files import load_mask, save_mask
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.masks.ramanujan import generate_ramanujan_mask
from expandermask.masks.random_distance import RandomDistance, distance_to_random
from expandermask.masks.targets import find_targets

__all__ = [
    "Counts",
    "MaskComparison",
    "MaskPair",
    "MaskPlan",
    "Overlap",
    "OverlapMatrix",
    "PlanComparison",
    "RandomDistance",
    "compare",
    "distance_to_random",
    "find_targets",
    "generate_ramanujan_mask",
    "load_mask",
    "overlap_matrix",
    "save_mask",
]
