"""Graph or scores -> 0/1 support, for one matrix or for a whole model; and masks compared."""

from expandermask.masks.bernoulli import bernoulli, row_column
from expandermask.masks.compare import OverlapMatrix, compare, overlap_matrix
from expandermask.masks.comparison import Counts, MaskComparison, Overlap, PlanComparison
from expandermask.masks.files import load_mask, save_mask
from expandermask.masks.partial import NothingKeptWarning, partial_plan
from expandermask.masks.plan import MaskPair, MaskPlan
from expandermask.masks.ramanujan import generate_ramanujan_mask
from expandermask.masks.random_distance import RandomDistance, distance_to_random
from expandermask.masks.schedules import Density, balanced, pyramidal
from expandermask.masks.scored import Scores, continuous, inverted, stochastic, targeted
from expandermask.masks.targets import find_targets

__all__ = [
    "Counts",
    "Density",
    "MaskComparison",
    "MaskPair",
    "MaskPlan",
    "NothingKeptWarning",
    "Overlap",
    "OverlapMatrix",
    "PlanComparison",
    "RandomDistance",
    "Scores",
    "balanced",
    "bernoulli",
    "compare",
    "continuous",
    "distance_to_random",
    "find_targets",
    "generate_ramanujan_mask",
    "inverted",
    "load_mask",
    "overlap_matrix",
    "partial_plan",
    "pyramidal",
    "row_column",
    "save_mask",
    "stochastic",
    "targeted",
]
