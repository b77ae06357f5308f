"""compare() against Python sets, all subsets, all orders of rows and columns, and simulation."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from expandermask import MaskPlan
from expandermask.errors import InvalidInputError
from expandermask.graphs import heawood, random_biregular
from expandermask.graphs.bipartite import as_bipartite
from expandermask.masks.compare import compare, overlap_matrix, relabelled_variance
from expandermask.masks.comparison import Counts, Overlap
from tests.oracles import comparison as oracle


@st.composite
def mask_pairs(draw: st.DrawFn, largest: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Two 0/1 masks of one shape: any degrees, empty and full ones among them."""
    n1, n2 = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    size = n1 * n2
    one, other = (draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)) for _ in range(2))
    return np.array(one).reshape(n1, n2), np.array(other).reshape(n1, n2)


def assert_counts_are_those_of(found: Counts, a: set, b: set) -> None:
    assert (found.kept_a, found.kept_b, found.common) == (len(a), len(b), len(a & b))
    assert found.union == len(a | b)
    assert found.differing == len(a ^ b)
    assert found.jaccard == (len(a & b) / len(a | b) if a | b else 1.0)
    smaller = min(len(a), len(b))
    assert found.overlap == (len(a & b) / smaller if smaller else 1.0)
    assert (found.overlap == 1) == (a <= b or b <= a)
    assert (found.jaccard == 1) == (a == b)


@settings(max_examples=200)
@given(mask_pairs())
def test_counts_are_those_of_sets(pair):
    a, b = pair
    found = compare(a, b)
    one, other = oracle.cells(a), oracle.cells(b)
    assert (found.n1, found.n2) == a.shape
    assert_counts_are_those_of(found.entries, one, other)
    assert_counts_are_those_of(found.left, {i for i, _ in one}, {i for i, _ in other})
    assert_counts_are_those_of(found.right, {j for _, j in one}, {j for _, j in other})
    sizes = found.entries.size, found.left.size, found.right.size
    assert sizes == (a.size, a.shape[0], a.shape[1])
    assert (found.jaccard, found.overlap) == (found.entries.jaccard, found.entries.overlap)


@given(mask_pairs())
def test_comparison_is_symmetric_and_turns_with_the_masks(pair):
    a, b = pair
    there, back, turned = compare(a, b), compare(b, a), compare(a.T, b.T)
    for of in ("entries", "left", "right"):
        one, other = getattr(there, of), getattr(back, of)
        assert (one.kept_a, one.kept_b) == (other.kept_b, other.kept_a)
        for name in ("common", "jaccard", "overlap", "differing", "expected", "std", "z_score"):
            assert getattr(one, name) == getattr(other, name)
    assert there.relabelled_std == back.relabelled_std == turned.relabelled_std
    assert there.z_score == back.z_score == turned.z_score
    assert (turned.left, turned.right) == (there.right, there.left)


@given(mask_pairs())
def test_a_mask_is_like_itself(pair):
    a, _ = pair
    found = compare(a, a)
    assert (found.jaccard, found.overlap, found.entries.differing) == (1.0, 1.0, 0)
    assert found.z_score is None or found.z_score >= 0


@pytest.mark.parametrize("size", range(1, 9))
def test_hypergeometric_law_is_that_of_all_subsets(size):
    for kept_a in range(size + 1):
        for kept_b in range(size + 1):
            values = oracle.subset_common(size, kept_a, kept_b)
            mean, variance = oracle.moments(values)
            for common in set(values):
                found = Overlap(kept_a, kept_b, common, size)
                assert found.expected == pytest.approx(float(mean), abs=1e-15)
                assert found.std == pytest.approx(math.sqrt(variance), abs=1e-12)
                more = Fraction(sum(v >= common for v in values), len(values))
                less = Fraction(sum(v <= common for v in values), len(values))
                assert found.p_more == pytest.approx(float(more), rel=1e-12)
                assert found.p_less == pytest.approx(float(less), rel=1e-12)
                if variance == 0:
                    assert found.z_score is None
                else:
                    z_score = float(common - mean) / math.sqrt(variance)
                    assert found.z_score == pytest.approx(z_score, abs=1e-12)


def test_far_tails_are_exact():
    found = Overlap(kept_a=1536, kept_b=1536, common=700, size=6144)
    ways = sum(math.comb(1536, k) * math.comb(6144 - 1536, 1536 - k) for k in range(700, 1537))
    exact = float(Fraction(ways, math.comb(6144, 1536)))
    assert exact < 1e-90
    assert found.p_more == pytest.approx(exact, rel=1e-9)


@settings(max_examples=60)
@given(mask_pairs(largest=4))
def test_relabelled_moments_are_those_of_all_orders(pair):
    a, b = pair
    mean, variance = oracle.moments(oracle.relabelled_common(a, b))
    assert relabelled_variance(as_bipartite(a), as_bipartite(b)) == variance
    found = compare(a, b)
    assert found.entries.expected == pytest.approx(float(mean))
    assert found.relabelled_std == pytest.approx(math.sqrt(variance))
    assert (found.z_score is None) == (variance == 0)


def test_every_two_regular_mask_gives_the_moments_of_uniform_biregular_masks():
    every = list(oracle.two_regular_masks())
    assert len(every) == 90
    irregular = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
    for a in (every[0], every[40], irregular):
        mean, variance = oracle.moments([int((a * b).sum()) for b in every])
        assert mean == Fraction(int(a.sum()) * 8, 16)
        for b in every[::17]:
            assert relabelled_variance(as_bipartite(a), as_bipartite(b)) == variance


def test_z_scores_of_independent_seeds_are_standardised():
    scores = np.array(
        [
            compare(*(random_biregular(48, 8, 2, rng=2 * k + side) for side in (0, 1))).z_score
            for k in range(600)
        ]
    )
    assert abs(scores.mean()) < 4 / math.sqrt(600)
    assert abs(scores.var() - 1) < 4 * math.sqrt(2 / 600)


def test_row_masks_are_judged_by_their_rows():
    rows = np.random.default_rng(0).permutation(64)
    one, other = np.zeros((64, 32), dtype=int), np.zeros((64, 32), dtype=int)
    one[rows[:20]], other[rows[10:30]] = 1, 1
    found = compare(one, other)
    assert (found.left.kept_a, found.left.kept_b, found.left.common) == (20, 20, 10)
    assert found.left.overlap == found.overlap == 0.5
    # Whole rows move together: entries drawn one by one would vary far less.
    assert found.relabelled_std == pytest.approx(32 * found.left.std)
    assert found.entries.z_score > 5 * found.z_score


@pytest.mark.parametrize("fill", [0, 1])
def test_masks_that_leave_chance_no_choice_have_no_z_score(fill):
    found = compare(np.full((3, 4), fill), np.eye(3, 4, dtype=int))
    assert (found.z_score, found.entries.z_score) == (None, None)
    assert (found.entries.p_more, found.entries.p_less) == (1.0, 1.0)
    assert "undefined" in str(found)
    assert json.loads(found.to_json())["z_score"] is None


def test_every_kind_of_mask_is_taken():
    import torch

    graph = heawood()
    dense = graph.mask()
    kinds = [dense, dense.astype(bool), scipy.sparse.coo_array(dense), graph.to_networkx()]
    for kind in [*kinds, torch.from_numpy(dense), as_bipartite(graph)]:
        assert compare(graph, kind) == compare(graph, graph)


def test_masks_of_different_shapes_are_refused_by_name():
    with pytest.raises(
        InvalidInputError, match="a and b must have one shape, got 3 x 4 and 4 x 3; t"
    ):
        compare(np.ones((3, 4)), np.ones((4, 3)))
    with pytest.raises(InvalidInputError, match=r"got 3 x 4 and 3 x 5$"):
        compare(np.ones((3, 4)), np.ones((3, 5)))
    with pytest.raises(InvalidInputError, match="'x' and 'z' must have one shape"):
        overlap_matrix({"x": np.ones((2, 2)), "y": np.ones((2, 2)), "z": np.ones((2, 3))})
    with pytest.raises(InvalidInputError, match="masks 'q' must have one shape"):
        compare({"q": np.ones((2, 2))}, {"q": np.ones((2, 3))})


SHAPES = {"layer.0.q": (48, 96), "layer.1.q": (48, 48)}


def plan(seed: int, r: int = 12, shapes: dict = SHAPES) -> MaskPlan:
    return MaskPlan.for_shapes(shapes, r=r, method="random", rng=seed)


def test_plans_are_compared_mask_by_mask_and_in_total():
    one, other = plan(0), plan(1)
    found = compare(one, other)
    graphs = dict(other.graphs())
    assert list(found.masks) == [f"{name}.{side}" for name in SHAPES for side in "AB"]
    assert found.masks == {name: compare(graph, graphs[name]) for name, graph in one.graphs()}
    every = [c.entries for c in found.masks.values()]
    assert found.total.kept_a == found.total.kept_b == one.num_values
    assert found.total.common == sum(e.common for e in every)
    assert found.expected == pytest.approx(one.num_values * 2 / 12)
    variance = sum(c.relabelled_std**2 for c in found.masks.values())
    assert found.relabelled_std == pytest.approx(math.sqrt(variance))
    deviation = found.total.common - found.expected
    assert found.z_score == pytest.approx(deviation / math.sqrt(variance))
    assert compare(one, plan(0)).total.jaccard == 1.0


def test_mappings_of_masks_are_compared_like_plans():
    one = {"q": np.eye(4, dtype=int), "v": np.ones((2, 3), dtype=int)}
    found = compare(one, {"v": np.eye(2, 3, dtype=int), "q": np.eye(4, dtype=int)})
    assert list(found.masks) == ["q", "v"]
    assert (found.total.kept_a, found.total.kept_b, found.total.common) == (10, 6, 6)


def test_plans_that_do_not_match_are_refused_by_module():
    with pytest.raises(InvalidInputError, match=r"b lacks 'layer.1.q'$"):
        compare(plan(0), plan(0, shapes={"layer.0.q": (48, 96)}))
    with pytest.raises(InvalidInputError, match=r"a lacks 'x'; b lacks 'layer.0.q', 'layer.1.q'"):
        compare(plan(0), {"x": np.eye(2)})
    many = {str(k): np.eye(2) for k in range(9)}
    with pytest.raises(InvalidInputError, match="a lacks '1', '2', '3', '4' and 4 more"):
        compare({"0": np.eye(2)}, many)
    with pytest.raises(InvalidInputError, match="two masks or two plans, got MaskPlan and ndarray"):
        compare(plan(0), np.eye(2))
    with pytest.raises(InvalidInputError, match="both plans are empty"):
        compare({}, {})
    with pytest.raises(InvalidInputError, match=r"'layer.0.q' is a pair .* a single mask"):
        compare(plan(0), dict.fromkeys(SHAPES, np.eye(2)))
    with pytest.raises(InvalidInputError, match="masks 'q': a mask holds only zeros and ones"):
        compare({"q": np.eye(2)}, {"q": 2 * np.eye(2)})
    with pytest.raises(
        InvalidInputError, match=r"'layer.0.q.A' must have one shape, got 96 x 12 an"
    ):
        compare(plan(0), plan(0, r=24))


def test_tables_and_json_carry_the_numbers():
    found = compare(plan(0), plan(1))
    data = json.loads(found.to_json())
    assert data["format"] == "expandermask plan comparison"
    assert data["total"]["common"] == found.total.common
    mask = found.masks["layer.0.q.A"]
    entry = data["masks"]["layer.0.q.A"]
    assert entry == json.loads(json.dumps(mask.to_dict()))
    assert entry["entries"]["p_more"] == mask.entries.p_more
    assert entry["z_score"] == mask.z_score
    assert (entry["rows"]["size"], entry["columns"]["size"]) == (96, 12)
    table = dict(found.rows())
    assert table["common"] == f"{found.total.common} of {found.total.union} kept by either"
    assert table["layer.0.q.A"] == str(mask)
    one = dict(mask.rows())
    assert one["shape"] == "96 x 12"
    assert one["Jaccard index"] == f"{mask.jaccard:.4f}"
    assert one["z-score"].startswith(f"{mask.z_score:.2f} relabelled")
    assert f"Jaccard {found.total.jaccard:.4f}" in str(found)


@settings(max_examples=60)
@given(mask_pairs(), st.sampled_from(["jaccard", "overlap"]), st.data())
def test_overlap_matrix_is_the_pairwise_comparison(pair, measure, data):
    more = data.draw(st.sampled_from([np.zeros_like(pair[0]), np.ones_like(pair[0])]))
    masks = {"a": pair[0], "b": pair[1], "c": more}
    found = overlap_matrix(masks, measure=measure)
    assert (found.names, found.measure) == (("a", "b", "c"), measure)
    for i, one in enumerate(masks.values()):
        for j, other in enumerate(masks.values()):
            counts = compare(one, other).entries
            assert found.values[i, j] == getattr(counts, measure)
            if i == j:
                assert found.expected[i, j] == 1.0
                continue
            if measure == "jaccard":
                whole = counts.kept_a + counts.kept_b - counts.expected
            else:
                whole = min(counts.kept_a, counts.kept_b)
            assert found.expected[i, j] == pytest.approx(counts.expected / whole if whole else 1.0)


def test_overlap_matrix_of_sparse_masks():
    masks = {str(s): random_biregular(96, 96, 2, rng=s) for s in range(5)}  # 1 cell in 10 is used
    found = overlap_matrix(masks).values
    for i in range(5):
        for j in range(5):
            assert found[i, j] == compare(masks[str(i)], masks[str(j)]).jaccard


def test_overlap_matrix_refuses_no_masks_and_unknown_measures():
    with pytest.raises(InvalidInputError, match="masks is empty"):
        overlap_matrix({})
    with pytest.raises(InvalidInputError, match="'jaccard' or 'overlap', got 'dice'"):
        overlap_matrix({"a": np.eye(2)}, measure="dice")


def test_layers_are_summed_up():
    """Masks by the first number in their names; each layer is a comparison of its own."""
    shapes = {f"model.layers.{k}.{n}": (24, 24) for k in (0, 1, 10) for n in ("q", "v.2")}
    shapes["head"] = (24, 24)
    plans = [MaskPlan.for_shapes(shapes, r=12, left_degree=3, rng=seed) for seed in (0, 1)]
    whole = compare(*plans)
    layers = whole.by_layer()
    assert list(layers) == ["model.layers.0", "model.layers.1", "model.layers.10", "head"]
    assert sum(layer.total.common for layer in layers.values()) == whole.total.common
    assert sum(layer.expected for layer in layers.values()) == pytest.approx(whole.expected)
    assert {name for layer in layers.values() for name in layer.masks} == set(whole.masks)
    assert {"model.layers.0.q.A", "head.B"} <= dict(whole.rows()).keys()
    many = {f"layers.{k}.q": (24, 24) for k in range(13)}
    plans = [MaskPlan.for_shapes(many, r=12, left_degree=3, rng=seed) for seed in (0, 1)]
    names = dict(compare(*plans).rows()).keys()
    assert "layers.12" in names
    assert "layers.12.q.A" not in names


# -- graphs and matrices of other kinds -----------------------------------------------------------


def reordered(graph):
    """The same networkx graph, its nodes added in the opposite order."""
    other = nx.Graph()
    other.add_nodes_from(
        (node, dict(data)) for node, data in reversed(list(graph.nodes(data=True)))
    )
    other.add_edges_from(graph.edges)
    return other


@pytest.mark.parametrize(
    "graph",
    [
        heawood().to_networkx(),
        random_biregular(12, 8, 2, rng=1).to_networkx(),
        nx.Graph([(0, "a"), (0, "b"), (1, "b"), (1, "c"), (2, "c"), (2, "a")]),
        nx.complete_bipartite_graph(2, 3),
        nx.Graph([(0, 1), (2, 3)]),
    ],
    ids=["heawood", "12x8", "letters", "K_2,3", "two components"],
)
def test_networkx_graphs_are_compared_by_their_labels(graph):
    graph = graph.copy()
    assert list(graph) != list(reordered(graph))
    assert compare(graph, reordered(graph)).jaccard == 1
    for node in graph:
        graph.nodes[node].pop("bipartite", None)
    assert compare(graph, reordered(graph)).jaccard == 1
    assert compare({"q": graph}, {"q": reordered(graph)}).total.jaccard == 1
    matrix = overlap_matrix({"first": graph, "second": reordered(graph)})
    np.testing.assert_array_equal(matrix.values, np.ones((2, 2)))


def test_sides_come_from_whichever_graph_has_them():
    graph = heawood().to_networkx()
    bare = nx.Graph(graph.edges)
    assert compare(bare, graph).jaccard == compare(graph, bare).jaccard == 1


def test_networkx_graphs_of_other_nodes_are_refused():
    graph = heawood().to_networkx()
    other = nx.relabel_nodes(graph, {0: "zero"})
    with pytest.raises(InvalidInputError, match="only one of them has the node"):
        compare(graph, other)
    turned = graph.copy()
    nx.set_node_attributes(
        turned, {v: 1 - s for v, s in graph.nodes(data="bipartite")}, "bipartite"
    )
    with pytest.raises(InvalidInputError, match="another bipartite attribute"):
        compare(graph, turned)
    moved = nx.Graph([(0, 1), (2, 3), (0, 2)])
    with pytest.raises(InvalidInputError, match="joins two vertices of one side"):
        compare(nx.Graph([(0, 1), (2, 1), (2, 3)]), moved)


@pytest.mark.parametrize("kind", [scipy.sparse.dok_array, scipy.sparse.dok_matrix])
def test_dok_matrices_are_masks(kind):
    dense = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    expected = compare(dense, dense[::-1])
    assert compare(kind(dense), kind(dense[::-1].copy())) == expected
    assert compare(kind(dense), dense[::-1]) == expected
    assert compare(dense, kind(dense[::-1].copy())) == expected
    assert compare(kind((3, 3)), kind((3, 3))).jaccard == 1
