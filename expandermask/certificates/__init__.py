"""Why to believe it: bounds, spectra, and rigorous certificates."""

from expandermask.certificates.bounds import Limits, limits, ramanujan_bound
from expandermask.certificates.certify import Certificate, certify
from expandermask.certificates.spectrum import spectrum

__all__ = ["Certificate", "Limits", "certify", "limits", "ramanujan_bound", "spectrum"]
