"""Pictures, drawn by matplotlib; every function takes ``ax=None`` and returns the Axes."""

from expandermask.plots.graphs import bipartite, mask
from expandermask.plots.spectra import spectra, spectrum_against_bound

__all__ = ["bipartite", "mask", "spectra", "spectrum_against_bound"]
