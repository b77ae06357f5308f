"""How hard a mask is to cut: Cheeger constants, proved bounds on them, the mixing lemma."""

from expandermask.expansion.cheeger import CheegerResult, cheeger
from expandermask.expansion.cut_search import best_cut
from expandermask.expansion.cuts import Cut
from expandermask.expansion.lower_bounds import cheeger_buser, conductance_bounds, lower_bounds
from expandermask.expansion.mixing import edge_count_bounds

__all__ = [
    "CheegerResult",
    "Cut",
    "best_cut",
    "cheeger",
    "cheeger_buser",
    "conductance_bounds",
    "edge_count_bounds",
    "lower_bounds",
]
