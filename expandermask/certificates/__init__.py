"""Why to believe it: bounds, spectra, and rigorous certificates."""

from expandermask.certificates.bounds import Limits, limits, ramanujan_bound
from expandermask.certificates.certificate import Certificate
from expandermask.certificates.certify import certify
from expandermask.certificates.density import kesten_mckay
from expandermask.certificates.spectrum import spectrum

__all__ = [
    "Certificate",
    "Limits",
    "certify",
    "kesten_mckay",
    "limits",
    "ramanujan_bound",
    "spectrum",
]
