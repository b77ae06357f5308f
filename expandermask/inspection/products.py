"""The product graph of LoRA's two masks: which inputs reach which outputs through the ranks.

With A of shape (r, k) and B of shape (d, r) the update B A joins input j to output i where some
rank t has both A[t, j] and B[i, t]. However well each mask is connected, a rank that only one of
them keeps carries nothing, and a pair without a common rank stays zero whatever is trained.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expandermask.errors import InvalidInputError, require_memory
from expandermask.files import write_document
from expandermask.graphs.bipartite import BipartiteGraph
from expandermask.inspection import _kernels as kernels
from expandermask.inspection.supports import support_of
from expandermask.tables import Tabled, text_table

FORMAT = "expandermask product report"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ProductReport(Tabled):
    """How the inputs of one module are joined to its outputs: the graph inputs - ranks - outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from expandermask.inspection.products import inspect_product
    >>> report = inspect_product(a=np.eye(2), b=np.array([[1, 1], [0, 0], [1, 0]]))
    >>> report.joined, report.pairs, report.dead_outputs
    (3, 6, 1)
    """

    outputs: int
    """d, the rows of B."""
    ranks: int
    """r, the columns of B and the rows of A."""
    inputs: int
    """k, the columns of A."""
    components: int
    """Connected components with an edge, of the graph inputs - ranks - outputs."""
    joined: int
    """Pairs of an output and an input with a rank in common: entries of B A that can be nonzero."""
    ranks_only_in_a: int
    """Ranks with an input and no output: what A computes for them is thrown away."""
    ranks_only_in_b: int
    """Ranks with an output and no input: B reads nothing from them."""
    dead_ranks: int
    """Ranks with neither."""
    dead_inputs: int
    """Inputs that reach no output."""
    dead_outputs: int
    """Outputs that no input reaches."""

    @property
    def pairs(self) -> int:
        """All pairs of an output and an input, d k."""
        return self.outputs * self.inputs

    @property
    def fraction(self) -> float:
        """The share of all pairs that is joined: the density of B A."""
        return self.joined / self.pairs

    @property
    def is_sound(self) -> bool:
        """One component, and every input, rank and output in it."""
        dead = self.ranks_only_in_a + self.ranks_only_in_b + self.dead_ranks
        return self.components == 1 and dead + self.dead_inputs + self.dead_outputs == 0

    def rows(self) -> list[tuple[str, str]]:
        """What a reader wants to know, as names and values."""
        ranks = f"{self.ranks_only_in_a} only in A, {self.ranks_only_in_b} only in B"
        return [
            ("shape of B A", f"{self.outputs} x {self.inputs} through {self.ranks} ranks"),
            ("components", f"{self.components}"),
            ("joined pairs", f"{self.joined:,} of {self.pairs:,} ({self.fraction:.2%})"),
            ("ranks lost", f"{ranks}, {self.dead_ranks} in neither"),
            ("inputs that reach nothing", f"{self.dead_inputs}"),
            ("outputs never reached", f"{self.dead_outputs}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {**asdict(self), "fraction": self.fraction}

    def to_json(self) -> str:
        """The report as JSON."""
        return write_document(FORMAT, FORMAT_VERSION, self.to_dict())

    def __str__(self) -> str:
        return text_table(self.rows())


def inspect_product(a: Any, b: Any) -> ProductReport:
    """Report on the product of two masks or weights, in LoRA's orientation.

    Parameters
    ----------
    a : anything `inspect_mask` takes as one mask, shape (r, k)
        The mask of A, ranks by inputs.
    b : likewise, shape (d, r)
        The mask of B, outputs by ranks.

    Raises
    ------
    InvalidInputError
        The ranks of the two differ, or one of them is no mask.
    TooLargeError
        The inputs of each rank as bits, r k / 8 bytes, do not fit in memory.

    Notes
    -----
    O(edges + (edges of B) k / 64), with equal rows of B counted once.
    """
    return product(support_of(a, "a").edges(), support_of(b, "b").edges())


def product(a: BipartiteGraph, b: BipartiteGraph) -> ProductReport:
    """The report on A, ranks by inputs, and B, outputs by ranks."""
    if a.n1 != b.n2:
        raise InvalidInputError(
            f"a must have as many rows (ranks) as b has columns, got {a.n1} and {b.n2}"
        )
    require_memory(a.n1 * a.n2 // 8, f"the inputs of {a.n1} ranks as bits")
    reached = _inputs_of_outputs(a, b)
    in_a, in_b = a.left_degrees > 0, b.right_degrees > 0
    return ProductReport(
        outputs=b.n1,
        ranks=a.n1,
        inputs=a.n2,
        components=_components(a, b),
        joined=int(reached.sum()),
        ranks_only_in_a=int((in_a & ~in_b).sum()),
        ranks_only_in_b=int((in_b & ~in_a).sum()),
        dead_ranks=int((~in_a & ~in_b).sum()),
        dead_inputs=int((np.bincount(a.rights[in_b[a.lefts]], minlength=a.n2) == 0).sum()),
        dead_outputs=int((reached == 0).sum()),
    )


def _inputs_of_outputs(a: BipartiteGraph, b: BipartiteGraph) -> NDArray[np.int64]:
    """How many inputs reach each output: int64, shape (d,)."""
    labels = kernels.classes(b.starts, b.rights)
    first = np.unique(labels, return_index=True)[1]
    degrees = b.left_degrees[first]
    starts = np.concatenate([[0], degrees.cumsum()])
    places = np.repeat(b.starts[first] - starts[:-1], degrees) + np.arange(starts[-1])
    bits = kernels.bit_rows(a.starts, a.rights, a.n2)
    sizes: NDArray[np.int64] = kernels.union_sizes(starts, b.rights[places], bits)[labels]
    return sizes


def _components(a: BipartiteGraph, b: BipartiteGraph) -> int:
    """Components with an edge of the graph with the ranks on one side, all else on the other."""
    inputs = a.transpose()
    starts = np.concatenate([inputs.starts, inputs.num_edges + b.starts[1:]])
    both = BipartiteGraph(starts, np.concatenate([inputs.rights, b.rights]), b.n2)
    other = both.transpose()
    labels, _ = kernels.explore(both.starts, both.rights, other.starts, other.rights)
    return int(labels.max()) + 1
