"""MaskPlan: a pair of masks for every adapted module of a model.

For a module with weight d x k and rank r, LoRA's update is B A with A: r x k and B: d x r. XoRA
(section 4.2) masks both by biregular Ramanujan graphs: each column of A and each row of B keeps
``left_degree`` entries. The plan holds one graph for each, left vertices the k inputs or d outputs,
right vertices the r ranks, all drawn from one seed. Masks from elsewhere, with any entries or with
whole rows and columns kept, go through the same plan (`MaskPlan.from_masks`) and claim nothing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from expandermask.certificates import Certificate, certify
from expandermask.certificates.certify import is_proved_ramanujan
from expandermask.errors import (
    FileFormatError,
    InvalidInputError,
    check_size,
)
from expandermask.files import (
    document_body,
    parse_json,
    read_bytes,
    seal,
    write_sealed,
    write_text,
)
from expandermask.graphs.bipartite import BipartiteGraph, as_bipartite, from_kept
from expandermask.graphs.biregular import BiregularGraph
from expandermask.graphs.catalog import ramanujan_graph
from expandermask.graphs.random import RandomState, derive_seed, draw_seed
from expandermask.masks.declared import (
    FORMAT,
    FORMAT_VERSION,
    declared_masks,
    plan_fields,
)
from expandermask.masks.ranks import Pattern, Ranks
from expandermask.masks.supports_json import Support as Support
from expandermask.masks.supports_json import read_supports, write_support
from expandermask.masks.targets import Names, Shape, grouped, targets_of_rank

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MaskPair:
    """The supports of one module's A (r x k) and B (d x r)."""

    a: Support
    """k left vertices (input features), r right vertices (ranks): the columns of A."""
    b: Support
    """d left vertices (output features), r right vertices (ranks): the rows of B."""

    @property
    def shape(self) -> Shape:
        """(d, k), the shape of the module's weight update."""
        return self.b.n1, self.a.n1

    @property
    def r(self) -> int:
        """The rank of the module: right vertices of both masks."""
        return self.a.n2

    @property
    def used_ranks(self) -> NDArray[np.int64]:
        """The ranks at which both masks keep something, ascending: all of biregular ones."""
        degrees = [
            np.full(g.n2, g.d2) if isinstance(g, BiregularGraph) else g.right_degrees
            for g in (self.a, self.b)
        ]
        return np.flatnonzero((degrees[0] > 0) & (degrees[1] > 0))

    @property
    def num_values(self) -> int:
        """Trainable values the pair keeps: (d + k) * left_degree where both are biregular."""
        return self.a.num_edges + self.b.num_edges


class MaskPlan(Mapping[str, MaskPair]):
    """Masks for a whole model: a mapping from module name to `MaskPair`.

    Build one with `for_model` or `for_shapes`; every graph in it is then a `BiregularGraph` that is
    proved Ramanujan, of the left degree, and has a recipe. The one exception is a module with a
    single input or output: that row of its mask is kept whole, and nothing is to prove.
    `from_masks` takes any masks; they are held as `BipartiteGraph`, and ``left_degree`` is None.
    Modules may have ranks of their own (`MaskPair.r`); ``r`` is the largest. Saved plans hold
    recipes and hashes, and indices only of masks without a recipe.

    Examples
    --------
    >>> from expandermask import MaskPlan
    >>> plan = MaskPlan.for_shapes({"query": (384, 384)}, r=64, left_degree=2, rng=0)
    >>> plan["query"].a
    BiregularGraph(n1=384, n2=64, d1=2, d2=12)
    >>> plan.num_values
    1536
    """

    def __init__(
        self,
        pairs: Mapping[str, MaskPair],
        *,
        r: int,
        left_degree: int | None,
        seed: int,
        adjusted: Mapping[str, str] | None = None,
    ) -> None:
        for name, pair in pairs.items():
            _require_sound(name, pair, left_degree)
        ranks = {pair.r for pair in pairs.values()}
        if ranks and max(ranks) != r:
            raise InvalidInputError(f"no mask of the plan is of rank r={r}; give r={max(ranks)}")
        self._pairs = dict(pairs)
        self.r = r
        self.left_degree = left_degree
        self.seed = seed
        self.adjusted = dict(adjusted or {})
        """What ``infeasible`` did to modules without masks of the rank asked for; not saved."""

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        *,
        target_modules: Names = "all-linear",
        exclude_modules: Names = (),
        modules_to_save: Iterable[str] = (),
        r: int = 64,
        left_degree: int = 2,
        rank_pattern: Pattern[int] = (),
        infeasible: str = "error",
        method: str = "auto",
        rng: RandomState = None,
        progress: bool = False,
    ) -> MaskPlan:
        """A plan for the linear modules of ``model`` that ``target_modules`` names.

        Parameters
        ----------
        model : torch.nn.Module
            Only names and shapes are read, so a model on the meta device will do.
        target_modules : str or iterable of str
            "all-linear", a regular expression, or name endings, as in `find_targets`. One warning
            names what "all-linear" passes over, with the reasons.
        exclude_modules : str or iterable of str
            Modules to leave out: a regular expression, or name endings.
        modules_to_save : iterable of str
            Modules that will be trained whole: "all-linear" leaves them out without a word.
        r : int
            Rank of the adapters.
        left_degree : int
            Entries kept in each column of A and each row of B, at least 2.
        rank_pattern : mapping of str to int
            Ranks of modules that are to have another one, by regular expressions for the ends of
            their names. The first that matches counts, as in PEFT.
        infeasible : {"error", "nearest", "skip"}
            What to do with modules of which no masks have the rank: raise, take the largest lower
            rank that works, or leave them out. One warning and ``adjusted`` say what was done.
        method : str
            How the masks are made, as in `ramanujan_graph`: "auto" takes near-optimal designs,
            "random" uniform graphs.
        rng : None, int or numpy.random.Generator
            One seed for the whole plan; each mask's own seed follows from it and the module's name.
        progress : bool
            Show a progress bar.

        Raises
        ------
        AdapterError
            No module matches, or one that is named cannot be adapted.
        InfeasibleShapeError
            Some shape has no such masks; the message lists the nearest ranks and degrees that work
            for all of them.
        """
        shapes = targets_of_rank(
            model,
            target_modules,
            exclude_modules,
            ranks=Ranks(r, left_degree, rank_pattern, infeasible),
            modules_to_save=modules_to_save,
        )
        return cls.for_shapes(
            shapes,
            r=r,
            left_degree=left_degree,
            rank_pattern=rank_pattern,
            infeasible=infeasible,
            method=method,
            rng=rng,
            progress=progress,
        )

    @classmethod
    def for_shapes(
        cls,
        shapes: Mapping[str, Shape],
        *,
        r: int = 64,
        left_degree: int = 2,
        rank_pattern: Pattern[int] = (),
        infeasible: str = "error",
        method: str = "auto",
        rng: RandomState = None,
        progress: bool = False,
    ) -> MaskPlan:
        """A plan for named (d, k) weight shapes; see `for_model`."""
        ranks = Ranks(r, left_degree, rank_pattern, infeasible)
        checked = {name: _checked_shape(name, shape) for name, shape in shapes.items()}
        own, adjusted = ranks.settle(checked)
        seed = draw_seed(rng)
        sizes = [
            (name, side, size)
            for name in own
            for side, size in zip("BA", checked[name], strict=True)
        ]
        graphs = {
            (name, side): _mask(size, own[name], left_degree, method, derive_seed(seed, name, side))
            for name, side, size in tqdm(
                sizes, desc="certified masks", disable=not progress, unit="mask"
            )
        }
        pairs = {name: MaskPair(graphs[name, "A"], graphs[name, "B"]) for name in own}
        largest = max(own.values(), default=r)
        if adjusted:
            warnings.warn(
                f"{len(adjusted)} of {len(checked)} modules have no masks of the rank asked for "
                f"with left_degree={left_degree}. As infeasible={infeasible!r} says: "
                f"{grouped(adjusted)}",
                stacklevel=2,
            )
        return cls(pairs, r=largest, left_degree=ranks.left_degree, seed=seed, adjusted=adjusted)

    @classmethod
    def from_masks(
        cls, masks: Mapping[str, tuple[Any, Any]], *, rng: RandomState = None
    ) -> MaskPlan:
        """A plan with masks of your own: any entries, or whole columns of A and rows of B.

        Parameters
        ----------
        masks : mapping of str to pair
            For each module the mask of A, shape (k, r), one row per input, and that of B, shape
            (d, r), one row per output: 0/1 arrays, sparse matrices or graphs as `as_bipartite`
            takes them. A row of ones keeps a column of A (a row of B) whole; rows of zeros are not
            stored. A `BiregularGraph` that has a recipe stays one, and has to be proved Ramanujan.
        rng : None, int or numpy.random.Generator
            Seed of the first values.

        Raises
        ------
        InvalidInputError
            No modules, an array that is no 0/1 mask, a mask that keeps nothing, or masks of A and B
            that differ in rank.

        Examples
        --------
        >>> import numpy as np
        >>> from expandermask import MaskPlan
        >>> columns, rows = np.zeros((48, 4)), np.zeros((32, 4))
        >>> columns[:12], rows[:8] = 1, 1
        >>> MaskPlan.from_masks({"query": (columns, rows)}, rng=0).num_values  # r (12 + 8)
        80
        """
        pairs = {}
        for name, both in masks.items():
            if not isinstance(both, tuple | list) or len(both) != 2:
                raise InvalidInputError(
                    f"masks of {name!r} must be a pair (A, B), got {both!r:.80}"
                )
            pairs[name] = MaskPair(
                *(_as_support(m, f"{name}.{s}") for m, s in zip(both, "AB", strict=True))
            )
        if not pairs:
            raise InvalidInputError("masks is empty; give the masks of at least one module")
        largest = max(pair.r for pair in pairs.values())
        return cls(pairs, r=largest, left_degree=None, seed=draw_seed(rng))

    # -- a mapping -----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> MaskPair:
        return self._pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        degree = "" if self.left_degree is None else f" left_degree={self.left_degree},"
        return f"MaskPlan({len(self)} modules, r={self.r},{degree} {self.num_values:,} values)"

    def __deepcopy__(self, memo: object) -> MaskPlan:
        """Itself: nothing in a plan ever changes."""
        return self

    @property
    def num_values(self) -> int:
        """Trainable values over all modules."""
        return sum(pair.num_values for pair in self.values())

    def without_empty(self) -> MaskPlan:
        """The plan without modules of which a mask keeps nothing, as policies may leave some."""
        left = {n: pair for n, pair in self.items() if pair.a.num_edges and pair.b.num_edges}
        if len(left) == len(self):
            return self
        return self.with_masks(left, left_degree=self.left_degree)

    def with_masks(self, pairs: Mapping[str, MaskPair], *, left_degree: int | None) -> MaskPlan:
        """A plan of these masks, of the same seed."""
        largest = max((pair.r for pair in pairs.values()), default=self.r)
        return MaskPlan(
            pairs, r=largest, left_degree=left_degree, seed=self.seed, adjusted=self.adjusted
        )

    def graphs(self) -> Iterator[tuple[str, BiregularGraph]]:
        """Every certified graph with its name, ``module.A`` or ``module.B``."""
        for name, pair in self.items():
            for side, graph in (("A", pair.a), ("B", pair.b)):
                if isinstance(graph, BiregularGraph):
                    yield f"{name}.{side}", graph

    def certify(self, *, progress: bool = False) -> dict[str, Certificate]:
        """A full certificate of every graph that has a recipe, by its name as in `graphs`."""
        every = tqdm(list(self.graphs()), desc="certificates", disable=not progress, unit="mask")
        return {name: certify(graph) for name, graph in every}

    # -- files ---------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The plan as JSON: one recipe, or the indices, and one hash per mask, and a seal.

        The seal catches damage to the names and the seed, which no mask's hash is of.
        """
        return write_sealed(FORMAT, FORMAT_VERSION, self._body())

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values, for a document with a seal of its own."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **self._body()}

    def _body(self) -> dict[str, Any]:
        modules = {
            name: {"A": write_support(pair.a), "B": write_support(pair.b)}
            for name, pair in self.items()
        }
        degree = self.left_degree
        return {"r": self.r, "left_degree": degree, "seed": self.seed, "modules": modules}

    @classmethod
    def from_json(cls, text: str | bytes) -> MaskPlan:
        """Rebuild a plan from its recipes, check every graph against its hash, and prove it again.

        Raises `FileFormatError` for a truncated, foreign or newer file, where a hash differs, or
        where a recipe makes a graph that is not Ramanujan; `TooLargeError`, before any graph is
        made, for masks of more than 2**26 edges or than the memory holds.
        """
        body = document_body(parse_json(text), FORMAT, FORMAT_VERSION)
        data = {"format": FORMAT, "format_version": FORMAT_VERSION, **body}
        found = data.pop("seal", None)
        declared_masks(data)  # what is wrong with a field is worth more than that something is
        if found != seal(data):
            raise FileFormatError("a plan: its fields were altered, the seal does not fit")
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: object) -> MaskPlan:
        """Read `to_dict` back; raises as `from_json` does."""
        pairs = {name: MaskPair(*both) for name, both in read_supports(data).items()}
        fields = plan_fields(data)
        try:
            return cls(pairs, r=fields["r"], left_degree=fields["left_degree"], seed=fields["seed"])
        except InvalidInputError as error:
            raise FileFormatError(str(error)) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MaskPlan:
        """Read, rebuild and verify a saved plan."""
        return cls.from_json(read_bytes(path))


def _mask(n1: int, r: int, left_degree: int, method: str, seed: int) -> Support:
    """The mask of one factor. A single row keeps all ranks: no graph with d2 = 1 is an expander."""
    if n1 == 1:
        return from_kept(np.arange(1), n1, r)
    return ramanujan_graph(n1, r, left_degree, method=method, rng=seed)


def _as_support(mask: Any, what: str) -> Support:
    if isinstance(mask, BiregularGraph) and mask.recipe is not None:
        return mask
    try:
        graph = as_bipartite(mask)
    except InvalidInputError as error:
        raise InvalidInputError(f"mask {what}: {error}") from None
    if graph.num_edges == 0:
        raise InvalidInputError(f"mask {what} keeps nothing; leave the module out of the plan")
    return graph


def _require_sound(name: str, pair: MaskPair, left_degree: int | None) -> None:
    """What a plan promises of a module: one rank, and of its biregular masks a proof."""
    if pair.a.n2 != pair.b.n2:
        raise InvalidInputError(
            f"the masks of {name!r} must have one rank r, got {[pair.a.n2, pair.b.n2]}"
        )
    for graph in (pair.a, pair.b):
        if isinstance(graph, BiregularGraph):
            _require_proof(name, graph, left_degree)
        elif left_degree is not None and not _is_whole_row(graph, left_degree):
            raise InvalidInputError(
                f"plan module {name!r}: {graph} has no left_degree, got {left_degree}"
            )


def _is_whole_row(graph: BipartiteGraph, left_degree: int) -> bool:
    return graph.n1 == 1 and graph.num_edges == graph.n2 == left_degree


def _require_proof(name: str, graph: BiregularGraph, left_degree: int | None) -> None:
    """The graph has the plan's degree, a recipe, and a proof."""
    if left_degree not in (graph.d1, None):
        raise InvalidInputError(
            f"plan module {name!r}: {graph} is not of left_degree={left_degree}"
        )
    if graph.recipe is None:
        raise InvalidInputError(
            f"plan module {name!r}: {graph} has no recipe to save; draw it with ramanujan_graph"
        )
    if not is_proved_ramanujan(graph) and certify(graph).verdict != "PROVED":
        raise InvalidInputError(f"plan module {name!r}: {graph} is not proved Ramanujan")


def _checked_shape(name: str, shape: object) -> Shape:
    """A (d, k) shape, its two numbers checked."""
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise InvalidInputError(f"shape of {name!r} must be a pair (d, k), got {shape!r}")
    d, k = (check_size(f"shape of {name!r}", size) for size in shape)
    return d, k
