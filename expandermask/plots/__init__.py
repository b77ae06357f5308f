"""Pictures, drawn by matplotlib; every function takes ``ax=None`` and returns the Axes."""

from expandermask.plots.graphs import bipartite, circular, mask
from expandermask.plots.spectra import density, ratios, spectra, spectrum_against_bound

__all__ = [
    "bipartite",
    "circular",
    "density",
    "mask",
    "ratios",
    "spectra",
    "spectrum_against_bound",
]
