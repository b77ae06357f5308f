"""Why to believe it: bounds, spectra, rigorous certificates."""

from expandermask.certificates.bounds import Limits, limits, ramanujan_bound
from expandermask.certificates.certificate import Certificate
from expandermask.certificates.certify import certify
from expandermask.certificates.cheeger import CheegerResult, cheeger
from expandermask.certificates.cuts import Cut
from expandermask.certificates.density import kesten_mckay
from expandermask.certificates.mixing import edge_count_bounds
from expandermask.certificates.spectrum import spectrum

__all__ = [
    "Certificate",
    "CheegerResult",
    "Cut",
    "Limits",
    "certify",
    "cheeger",
    "edge_count_bounds",
    "kesten_mckay",
    "limits",
    "ramanujan_bound",
    "spectrum",
]
