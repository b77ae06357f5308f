"""The measurements behind a `MaskReport`."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expandermask.certificates.certificate import sqrt_above
from expandermask.certificates.certify import certify
from expandermask.errors import NotBiregularError, TooLargeError
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.graphs.biregular import BiregularGraph
from expandermask.inspection import _kernels as kernels
from expandermask.inspection.mask_report import MaskReport, SideReport, Verdict
from expandermask.inspection.normalised import complement_sigma2, normalised_sigma2
from expandermask.inspection.supports import Support, complement
from expandermask.inspection.symptoms import Symptom, find_symptoms

if TYPE_CHECKING:
    from expandermask.certificates import Certificate

Integers = NDArray[np.int64]
_SHOWN = 10


def report_on(support: Support, proofs: dict[str, Certificate] | None = None) -> MaskReport:
    """The report on one support; ``proofs`` holds certificates by digest, and gains new ones."""
    n1, n2 = support.shape
    if support.ones == n1 * n2:
        return _dense_report(support)
    by_zeros = support.zeros is not None and _is_thick(support.zeros)
    kept = support.zeros if by_zeros and support.zeros is not None else support.edges()
    other = kept.transpose()
    degrees = [side.left_degrees for side in (kept, other)]
    if by_zeros:
        degrees = [n2 - degrees[0], n1 - degrees[1]]
    labels = [kernels.classes(side.starts, side.rights) for side in (kept, other)]
    left, right = _side(degrees[0], labels[0], n2), _side(degrees[1], labels[1], n1)
    if by_zeros:
        sizes, largest, bridges = _thick_components(degrees)
    else:
        sizes, largest, bridges = _components(kept, other)
    verdict, reason, proof = _judge(support, left, right, proofs)
    symptoms = _symptoms(degrees, labels) if support.ones else []
    if len(sizes) != 1:
        sigma2 = 1.0 if len(sizes) else None
    elif proof is not None and proof.verdict != "UNDECIDED":
        sigma2 = min(1.0, sqrt_above(Fraction(proof.sigma2[1]) ** 2 / (proof.d1 * proof.d2)))
    else:
        sigma2 = complement_sigma2(kept) if by_zeros else normalised_sigma2(kept)
    return MaskReport(
        verdict=verdict,
        reason=reason,
        shape=support.shape,
        ones=support.ones,
        dtype=support.dtype,
        kind=support.kind,
        left=left,
        right=right,
        components=len(sizes),
        component_sizes=_histogram(sizes),
        largest_component=largest,
        bridges=bridges,
        sigma2=sigma2,
        symptoms=tuple(symptoms),
        certificate=proof,
        digest=_digest(support) if proof is None else proof.digest,
    )


def is_about(report: MaskReport, support: Support) -> bool:
    """Whether a report is on this mask: of the same shape and count, with the same digest."""
    if (report.shape, report.ones) != (support.shape, support.ones):
        return False
    if report.certificate is None:
        return report.digest == _digest(support)
    try:
        return report.digest == support.edges().biregular().digest
    except NotBiregularError:
        return False


def _dense_report(support: Support) -> MaskReport:
    """The report on a mask without zeros, whose graph is complete: nothing has to be measured."""
    n1, n2 = support.shape
    return MaskReport(
        verdict="DENSE",
        reason="no entry is zero, so nothing is masked: the complete bipartite graph",
        shape=(n1, n2),
        ones=n1 * n2,
        dtype=support.dtype,
        kind=support.kind,
        left=SideReport(n1, {n2: n1}, 0, (), n1 - 1, n1 - 1),
        right=SideReport(n2, {n1: n2}, 0, (), n2 - 1, n2 - 1),
        components=1,
        component_sizes={n1 + n2: 1},
        largest_component=(n1, n2),
        bridges=n1 * n2 if min(n1, n2) == 1 else 0,
        sigma2=0.0,
        symptoms=(),
        certificate=None,
        digest=_digest(support),
    )


def _is_thick(zeros: BipartiteGraph) -> bool:
    """Whether the degrees alone show that the live rows hang together, whatever edge is removed.

    Two rows whose degrees sum to more than n2 share a column. If that holds for any two live rows
    even after one of them has lost an entry, they are in one component with all live columns, and
    only a column of degree 1 can be cut off: the bridges are the entries of these. The complement
    of few zeros is told so without listing its entries.
    """
    degrees = zeros.n2 - zeros.left_degrees
    live = degrees[degrees > 0]
    return bool(2 * live.min() > zeros.n2 + 1)


def _thick_components(degrees: list[Integers]) -> tuple[Integers, tuple[int, int], int]:
    """What `_components` gives, where `_is_thick` holds."""
    rows, columns = (int((side > 0).sum()) for side in degrees)
    return np.array([rows + columns]), (rows, columns), int((degrees[1] == 1).sum())


def _components(
    graph: BipartiteGraph, other: BipartiteGraph
) -> tuple[Integers, tuple[int, int], int]:
    """Sizes of the components with an edge, rows and columns of a largest one, and bridges."""
    labels, bridges = kernels.explore(graph.starts, graph.rights, other.starts, other.rights)
    sizes = np.bincount(labels[labels >= 0])
    if not len(sizes):
        return sizes, (0, 0), 0
    inside = labels == sizes.argmax()
    largest = int(inside[: graph.n1].sum()), int(inside[graph.n1 :].sum())
    return sizes, largest, int(bridges)


def _judge(
    support: Support, left: SideReport, right: SideReport, proofs: dict[str, Certificate] | None
) -> tuple[Verdict, str, Certificate | None]:
    """The verdict, a sentence, and the certificate if there is one."""
    if support.ones == 0:
        return "EMPTY", "every entry is zero", None
    if not (left.is_regular and right.is_regular):
        reason = f"row degrees {left.describe_degrees()}; columns {right.describe_degrees()}"
        return "NOT BIREGULAR", reason, None
    if min(left.least, right.least) == 1:
        reason = (
            f"d1 = {left.least}, d2 = {right.least}: a union of stars, and the Ramanujan property "
            "needs both degrees >= 2"
        )
        return "STAR", reason, None
    graph = support.graph
    regular = graph if isinstance(graph, BiregularGraph) else support.edges().biregular()
    known = {} if proofs is None else proofs
    if regular.digest not in known:
        try:
            known[regular.digest] = certify(regular)
        except TooLargeError as error:
            return "UNDECIDED", f"no certificate: {error}", None
    proof = known[regular.digest]
    return proof.verdict, proof.reason, proof


def _side(degrees: Integers, labels: Integers, opposite: int) -> SideReport:
    """The rows by their degrees and labels of equal ones; ``opposite`` columns."""
    histogram = _histogram(degrees)
    live = histogram.copy()
    dead = live.pop(0, 0)
    classes = int(labels.max()) + 1 - (dead > 0)
    return SideReport(
        vertices=len(degrees),
        histogram=histogram,
        dead=dead,
        first_dead=tuple(np.flatnonzero(degrees == 0)[:_SHOWN].tolist()) if dead else (),
        duplicates=len(degrees) - dead - classes,
        inevitable=sum(n - _at_most(n, opposite, d) for d, n in live.items()),
    )


def _histogram(values: Integers) -> dict[int, int]:
    """How often each value occurs, ascending."""
    different, counts = np.unique(values, return_counts=True)
    return dict(zip(different.tolist(), counts.tolist(), strict=True))


def _at_most(cap: int, n: int, k: int) -> int:
    """The number of subsets of k out of n things, or ``cap`` if that is less."""
    number = 1
    for j in range(min(k, n - k)):
        if number >= cap:  # binomial coefficients only grow up to the middle
            return cap
        number = number * (n - j) // (j + 1)
    return min(cap, number)


def _digest(support: Support) -> str:
    """SHA-256 of a line of ASCII, then the degrees and columns of the entries, or of the zeros.

    Zeros are taken where there are fewer of them. The line is ``expandermask entries n1 n2`` or
    ``expandermask zeros n1 n2``; degrees and columns, row by row, are little-endian unsigned
    integers of 4 bytes.
    """
    n1, n2 = support.shape
    kept, what = support.zeros, "zeros"
    if 2 * support.ones <= n1 * n2:
        kept, what = support.edges(), "entries"
    elif kept is None:
        kept = complement(support.edges())
    state = hashlib.sha256(f"expandermask {what} {n1} {n2}\n".encode())
    state.update(kept.left_degrees.astype("<u4").tobytes())
    state.update(kept.rights.astype("<u4").tobytes())
    return state.hexdigest()


def _symptoms(degrees: list[NDArray[np.int64]], labels: list[NDArray[np.int64]]) -> list[Symptom]:
    """The signs of tiling and cropping along rows and columns."""
    found = find_symptoms("rows", degrees[0], labels[0])
    found += find_symptoms("columns", degrees[1], labels[1])
    if degrees[0].sum() == np.count_nonzero(degrees[0]) * np.count_nonzero(degrees[1]):
        # Whole rows and columns are kept. They are all equal then, which is no tiling.
        found = [symptom for symptom in found if symptom.numbers.get("period") != 1]
    return found
