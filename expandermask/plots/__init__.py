"""Pictures, drawn by matplotlib; every function takes ``ax=None`` and returns the Axes."""

from expandermask.plots.allocation import (
    budget_over_time,
    gradient_norms,
    module_weights,
    rank_heatmap,
)
from expandermask.plots.compare import layer_overlap, overlap
from expandermask.plots.cuts import cheeger_intervals, cut
from expandermask.plots.graphs import bipartite, circular, mask
from expandermask.plots.layers import heatmap, over_depth
from expandermask.plots.plans import spectral_gaps
from expandermask.plots.report import checkpoint, report
from expandermask.plots.sparsity import density_curves
from expandermask.plots.spectra import density, ratios, spectra, spectrum_against_bound

__all__ = [
    "bipartite",
    "budget_over_time",
    "checkpoint",
    "cheeger_intervals",
    "circular",
    "cut",
    "density",
    "density_curves",
    "gradient_norms",
    "heatmap",
    "layer_overlap",
    "mask",
    "module_weights",
    "over_depth",
    "overlap",
    "rank_heatmap",
    "ratios",
    "report",
    "spectra",
    "spectral_gaps",
    "spectrum_against_bound",
]
