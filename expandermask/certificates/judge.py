"""The verdict on one graph: which tier settles it, and the evidence it leaves.

Tiers are asked from the cheapest to the dearest, first for the upper end of the spectrum, then, if
the definition is two-sided, for the lower. Whatever no tier settles stays UNDECIDED.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from expandermask.certificates.blocks import Blocks
from expandermask.certificates.bounds import RamanujanBound
from expandermask.certificates.certificate import (
    OUTWARD,
    Definition,
    Method,
    Verdict,
    sqrt_above,
    sqrt_below,
)
from expandermask.certificates.descartes import RootCount, count_roots
from expandermask.certificates.lanczos import Lanczos, lanczos
from expandermask.certificates.refine import refined_vector
from expandermask.certificates.spectrum import exact_quotient, rayleigh_quotient
from expandermask.certificates.ties import elimination_bits, tie_basis
from expandermask.graphs import _kernels
from expandermask.graphs.biregular import BiregularGraph

EXACT_LIMIT = 512
"""Largest smaller side for which the exact tier is run (seconds at this size)."""

FAILURE = 1e-9
"""The probability of failure for which the large tier states a level."""


_NO_VECTOR = (
    "an eigenvalue lies beyond the bound (exact count), and no vector of up to 2048 bits shows it"
)


class Judgement(NamedTuple):
    """A verdict, what settled it, the evidence, a sentence; and sigma_min if it was asked for."""

    verdict: Verdict
    method: Method
    evidence: dict[str, Any]
    reason: str
    sigma_min: tuple[float, float] | None = None


class Case:
    """A graph, the definition it is held against, and an exact lower bound on its sigma_2.

    Parameters
    ----------
    graph, side : BiregularGraph
        The graph, and the same turned so that n2 <= n1.
    definition : str
        As in `certify`; "regular" and "within" differ from "one-sided" by graph and bound alone.
    bound : RamanujanBound
        What sigma_2 is compared with.
    exact : RamanujanBound
        The same with eps = 0, which roots can be counted above.
    blocks : Blocks or None
        The Gram matrix of ``side``, or None where it is too large, for the reason ``obstacle``.
    """

    components: int
    """Number of connected components."""
    square: Fraction
    """A Rayleigh quotient, so at most sigma_2**2, of the vector `witness`."""
    witness: list[int]
    """The integer vector of `square` on the right vertices of `side`; its entries sum to zero."""

    def __init__(
        self,
        graph: BiregularGraph,
        side: BiregularGraph,
        definition: Definition,
        bound: RamanujanBound,
        blocks: Blocks | None,
        obstacle: str,
    ) -> None:
        self.graph, self.side, self.definition = graph, side, definition
        self.bound, self.blocks, self.obstacle = bound, blocks, obstacle
        self.exact = RamanujanBound(bound.d1, bound.d2)
        self.found: Lanczos | None = None
        labels = _kernels.right_components(side.neighbors, side.n2)
        self.components = int(labels.max()) + 1
        if self.components > 1:
            # Constant on components and orthogonal to all-ones: sigma_2 = sigma_1.
            inside = labels == labels[0]
            self.square = Fraction(side.d1 * side.d2)
            self.witness = np.where(inside, (~inside).sum(), -inside.sum()).tolist()
            return
        if blocks is None:
            self.found = lanczos(side, int(graph.digest[:16], 16))
            vector = self.found.vector
        else:
            vector = blocks.top_nontrivial()
        self.square, witness = rayleigh_quotient(side, vector)
        self.witness = witness.tolist()

    @property
    def is_small(self) -> bool:
        """Whether the exact tier, and the stand-alone checker, can take the graph."""
        return self.side.n2 <= EXACT_LIMIT

    def shown(self) -> dict[str, Any]:
        """`witness` and `square` as evidence."""
        return self.quotient(self.square, self.witness)

    def quotient(self, square: Fraction, vector: list[int]) -> dict[str, Any]:
        """A vector on the right of `side`, with its quotient, as evidence about `graph`."""
        return {
            "side": "right" if self.side is self.graph else "left",
            "vector": vector,
            "square": [str(square.numerator), str(square.denominator)],
        }


def judge(case: Case) -> Judgement:
    """The verdict by the first tier that settles it."""
    if case.components > 1:
        reason = f"disconnected: {case.components} components, so sigma_2 = sigma_1"
        return Judgement("REFUTED", "components", case.shown(), reason, _nothing_known(case))
    if case.bound.exceeded_by(case.square):
        reason = "a vector orthogonal to the trivial one has a Rayleigh quotient above rho^2"
        return Judgement("REFUTED", "rayleigh", case.shown(), reason, _nothing_known(case))
    if case.blocks is None:
        return _too_large(case)
    judged = _upper_end(case, case.blocks)
    if case.definition == "two-sided":
        return _lower_end(case, case.blocks, judged)
    return judged


def _nothing_known(case: Case) -> tuple[float, float] | None:
    """The trivial enclosure of sigma_min, where it is asked for but plays no part."""
    if case.definition != "two-sided":
        return None
    return 0.0, sqrt_above(Fraction(case.side.d1 * case.side.d2))


def _too_large(case: Case) -> Judgement:
    """UNDECIDED, with the probability that a random start would have missed a refutation."""
    assert case.found is not None
    ceiling = case.bound.square_below()
    failure = case.found.failure_at(ceiling)
    level = min(case.found.level_at(FAILURE), float(case.side.d1 * case.side.d2))
    if case.found.exhausted:
        said = "these exhaust the space it spans, which almost surely meets every eigenspace"
    else:
        said = (
            f"sigma_2 above the bound would have been missed with probability at most "
            f"{failure:.2g}, and sigma_2 above {level**0.5:.9g} with probability at most "
            f"{FAILURE:.0e} (Kuczynski and Wozniakowski)"
        )
    reason = (
        f"no proof: {case.obstacle}. After {case.found.steps} Lanczos steps from a random start, "
        f"{said}; rounding errors are not accounted for"
    )
    chance = {"steps": case.found.steps, "failure": failure, "level": level, "at_level": FAILURE}
    return Judgement("UNDECIDED", "lanczos", {"probability": chance}, reason, _nothing_known(case))


def _upper_end(case: Case, blocks: Blocks) -> Judgement:
    """Whether sigma_2 is at most the bound: tier 1, then tier 2."""
    c = case.bound.square_below()
    evidence = case.shown() if case.is_small else {}
    if blocks.proves_at_most(c):
        reason = "c I - M'M is positive definite off the trivial vector for a c <= "
        reason += "(rho + eps)^2" if case.bound.eps else "rho^2"
        if blocks.r == 1:
            return Judgement("PROVED", "cholesky", {**evidence, "c": c}, reason)
        reason += f", shown on the blocks of its symmetry of order {blocks.r}"
        return Judgement("PROVED", "blocks", {**evidence, "r": blocks.r, "c": c}, reason)
    if not case.is_small:
        return Judgement("UNDECIDED", "none", evidence, _out_of_reach("sigma_2", case))
    roots = _roots(case)
    counted = {"roots_above": roots.above, "ties": roots.ties}
    if roots.above and case.bound.eps:
        return Judgement("UNDECIDED", "none", evidence, _out_of_reach("sigma_2", case))
    if roots.above:
        vector = _refuting(case)
        if vector is None:
            return Judgement("UNDECIDED", "none", evidence, _NO_VECTOR)
        reason = f"{roots.above} nontrivial eigenvalues of M'M lie above rho^2 (exact count)"
        return Judgement("REFUTED", "descartes", {**vector, **counted}, reason)
    reason = f"no nontrivial eigenvalue of M'M lies above rho^2 (exact), {roots.ties} equal it"
    return Judgement(
        "PROVED",
        "descartes",
        {**evidence, **counted, **_for_checking(case, both_ends=False)},
        reason,
    )


def _lower_end(case: Case, blocks: Blocks, upper: Judgement) -> Judgement:
    """The judgement with sigma_min >= |sqrt(d1 - 1) - sqrt(d2 - 1)| taken into account."""
    square, vector = exact_quotient(case.side, blocks.bottom())
    least = {"least": case.quotient(square, vector.tolist())}
    c = case.bound.least_square_above()
    enclosure = (_proved_least(blocks, square), sqrt_above(square))
    evidence = {**upper.evidence, **least}
    judged = upper._replace(evidence=evidence, sigma_min=enclosure)
    if upper.verdict == "REFUTED":
        return judged
    if case.bound.least_missed_by(square):
        reason = "a vector has a Rayleigh quotient below (sqrt(d1 - 1) - sqrt(d2 - 1))^2"
        return Judgement("REFUTED", "rayleigh", evidence, reason, enclosure)
    if c == 0 or blocks.proves_at_least(c):
        raised = max(enclosure[0], min(sqrt_below(Fraction(c)), enclosure[1]))
        return judged._replace(
            evidence={**evidence, "c_least": c},
            reason=f"{upper.reason}, and no eigenvalue lies below the lower end",
            sigma_min=(raised, enclosure[1]),
        )
    if not case.is_small:
        return Judgement("UNDECIDED", "none", evidence, _out_of_reach("sigma_min", case), enclosure)
    return _lower_end_exactly(case, judged)


def _lower_end_exactly(case: Case, judged: Judgement) -> Judgement:
    """Tier 2 for the lower end."""
    roots = _roots(case)
    counted = {"roots_below": roots.below, "ties_below": roots.ties_below}
    evidence = {**judged.evidence, **counted}
    if roots.below:
        reason = f"{roots.below} eigenvalues of M'M lie below the two-sided end (exact count)"
        vector = _refuting(case, below=True)
        if vector is None:
            return Judgement("UNDECIDED", "none", judged.evidence, _NO_VECTOR, judged.sigma_min)
        evidence["least"] = vector
        return Judgement("REFUTED", "descartes", evidence, reason, judged.sigma_min)
    reason = f"{judged.reason}, and none lies below the lower end (exact), "
    reason += f"{roots.ties_below} equal it"
    evidence = {
        **evidence,
        "ties": roots.ties,
        "roots_above": 0,
        **_for_checking(case, both_ends=True),
    }
    return Judgement("PROVED", "descartes", evidence, reason, judged.sigma_min)


def _roots(case: Case) -> RootCount:
    return count_roots(case.side.gram(), case.side.d1 * case.side.d2, case.exact)


def _refuting(case: Case, *, below: bool = False) -> dict[str, Any] | None:
    """A vector beyond the end, which root counting does without; None if none is found."""
    try:
        return case.quotient(*refined_vector(case.side, case.bound, below=below))
    except ArithmeticError:
        return None


def _for_checking(case: Case, *, both_ends: bool) -> dict[str, Any]:
    """What lets the stand-alone checker go through a tie in integers."""
    gram, trivial = case.side.gram(), case.side.d1 * case.side.d2
    basis = tie_basis(gram, case.exact)
    bits = elimination_bits(gram, trivial, case.exact, basis, both_ends)
    return {"tie_basis": basis, "bits": bits}


def _proved_least(blocks: Blocks, square: Fraction) -> float:
    """A proved lower end for sigma_min, a hair below the exact upper bound ``square``."""
    slack = 4 * blocks.margin(float(square))
    for _ in range(6):
        c = float(square) * (1 - OUTWARD) - slack
        if c <= 0:
            break
        if blocks.proves_at_least(c):
            return sqrt_below(Fraction(c))
        slack *= 16
    return 0.0


def _out_of_reach(what: str, case: Case) -> str:
    if case.bound.eps:
        return f"{what} is within rounding of rho + eps; another eps will tell"
    return (
        f"{what} is within rounding of the bound, and the exact test is run only up to "
        f"{EXACT_LIMIT} vertices on the smaller side"
    )
