"""Masks of every kind under the layer, against dense factors times dense masks in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import attach, load_adapter, merge, save_adapter, unmerge
from expandermask.adapters.layers.factors import index_of, uniform_values, value_shape
from expandermask.errors import FileFormatError, InvalidInputError
from expandermask.graphs.bipartite import as_bipartite
from expandermask.masks import MaskPair
from tests.adapters.models import layers, mlp, randomise, same, state, trainable
from tests.adapters.pairs import the_adapter

KINDS = ("lines", "elements", "regular")


def mask(kind: str, n: int, r: int, generator: np.random.Generator) -> np.ndarray:
    """A random (n, r) mask of one kind, with something kept."""
    found = np.zeros((n, r), dtype=np.uint8)
    if kind == "lines":
        found[generator.choice(n, max(1, n // 3), replace=False)] = 1
    elif kind == "elements":
        found[:] = generator.random((n, r)) < 0.3
        found[0, 0], found[-1] = 1, 0
    else:
        for row in found:
            row[generator.choice(r, 2, replace=False)] = 1
    return found


def expected(layer: nn.Module, masks: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
    """Float64 scale * B A, from the values laid out on the masks row by row."""
    adapter = the_adapter(layer)
    factors = []
    for values, m in zip((adapter.lora_A, adapter.lora_B), masks, strict=True):
        dense = np.zeros(m.shape)
        dense[m != 0] = values.detach().double().numpy().ravel()
        factors.append(torch.from_numpy(dense))
    a, b = factors
    return adapter.scale * b @ a.T


@settings(max_examples=60)
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    sizes=st.sampled_from([(12, 8, 4), (9, 30, 6), (16, 16, 8)]),
    tokens=st.sampled_from([1, 7, 64]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 10_000),
)
def test_output_and_gradients_equal_the_dense_oracle(
    kinds: tuple[str, str], sizes: tuple[int, int, int], tokens: int, dtype: torch.dtype, seed: int
) -> None:
    (d, k, r), generator = sizes, np.random.default_rng(seed)
    masks = mask(kinds[0], k, r, generator), mask(kinds[1], d, r, generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(k, d)).to(dtype)
    attach(model, MaskPlan.from_masks({"0": masks}, rng=seed))
    randomise(model, seed)
    layer, adapter = model[0], the_adapter(model[0])
    delta = expected(layer, masks).requires_grad_()
    x = torch.randn(tokens, k, dtype=dtype, requires_grad=True)
    weights = torch.randn(tokens, d, dtype=torch.float64)
    wanted = x.detach().double() @ (layer.weight.double() + delta).T + layer.bias.double()
    found = layer(x)
    near = {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]
    assert (found.double() - wanted).abs().max() <= near * wanted.abs().max()
    (found * weights).sum().backward()
    # dL/dDelta = weights' x; the factors' gradients follow from it by the chain rule, densely.
    top = adapter.scale * weights.T @ x.detach().double()
    a, b = (f.double() for f in adapter.factors())
    for grad, values, m in (
        (top.T @ b, adapter.lora_A, masks[0]),
        (top @ a.T, adapter.lora_B, masks[1]),
    ):
        kept = grad.numpy()[m != 0].reshape(values.shape)
        assert np.abs(values.grad.double().numpy() - kept).max() <= near * float(grad.abs().max())
    dense = weights @ (layer.weight.double() + delta)
    assert (x.grad.double() - dense).abs().max() <= near * dense.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_the_mask_keeps_is_stored(kind: str) -> None:
    m = mask(kind, 30, 6, np.random.default_rng(1))
    graph = as_bipartite(m)
    shapes = {"lines": (10, 6), "regular": (30, 2), "elements": (int(m.sum()), 1)}
    assert value_shape(graph) == shapes[kind]
    index = index_of(graph)
    assert index.numel() <= m.sum()
    assert index.dtype == (torch.uint8 if kind == "regular" else torch.int32)


def test_first_values_have_the_variance_of_each_ranks_true_fan_in() -> None:
    m = np.zeros((4000, 2), dtype=np.uint8)
    m[:, 0], m[:40, 1] = 1, 1
    values = uniform_values(as_bipartite(m), seed=3).numpy()
    rights = as_bipartite(m).rights
    for rank, degree in ((0, 4000), (1, 40)):
        assert np.abs(values[rights == rank]).max() <= 1 / np.sqrt(degree)
        assert values[rights == rank].var() * degree == pytest.approx(1 / 3, rel=0.3)


@pytest.mark.parametrize("kinds", [("lines", "lines"), ("elements", "lines"), ("regular",) * 2])
def test_merge_save_and_load(kinds: tuple[str, str], tmp_path: pytest.TempPathFactory) -> None:
    generator = np.random.default_rng(2)
    masks = {
        name: (mask(kinds[0], k, 8, generator), mask(kinds[1], d, 8, generator))
        for name, (d, k) in {"0": (32, 64), "2": (64, 32)}.items()
    }
    model, fresh = mlp(), mlp()
    plan = attach(model, MaskPlan.from_masks(masks, rng=0))
    randomise(model)
    before, x = state(model), torch.randn(5, 64)
    out = model(x)
    merge(model)
    torch.testing.assert_close(model(x), out, rtol=1e-4, atol=1e-4)
    unmerge(model)
    assert same(state(model), before)
    save_adapter(model, tmp_path)
    assert load_adapter(fresh, tmp_path) == plan
    assert same(state(fresh), before)
    assert torch.equal(fresh(x), out)


def test_masks_may_be_of_different_kinds_and_a_certified_one_keeps_its_recipe() -> None:
    certified = MaskPlan.for_shapes({"0": (32, 64)}, r=8, rng=0)["0"]
    rows = mask("lines", 64, 8, np.random.default_rng(0))
    plan = MaskPlan.from_masks(
        {
            "0": (certified.a, certified.b),
            "2": (mask("elements", 32, 8, np.random.default_rng(1)), rows),
        },
        rng=0,
    )
    assert plan["0"] == certified
    assert dict(plan.graphs()) == {"0.A": certified.a, "0.B": certified.b}
    assert MaskPlan.from_json(plan.to_json()) == plan
    model = mlp()
    attach(model, plan)
    assert [tuple(p.shape) for p in trainable(model)][3] == (21, 8)
    assert len(layers(model)) == 2


REFUSED = [
    ({}, "masks is empty"),
    ({"0": np.ones((4, 2))}, "must be a pair"),
    ({"0": (np.ones((4, 2)), np.zeros((4, 2)))}, r"0\.B keeps nothing"),
    ({"0": (np.ones((4, 2)), np.full((4, 2), 0.5))}, r"mask 0\.B: "),
    ({"0": (np.ones((4, 2)), np.ones((4, 3)))}, r"one rank r, got \[2, 3\]"),
]


@pytest.mark.parametrize(("masks", "message"), REFUSED)
def test_masks_that_are_none_are_refused(masks: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MaskPlan.from_masks(masks, rng=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kept", "AAA=", "ascend"),
        ("kept", "/w==", "index 255 is not below 3"),
        ("kept", "!", "no base64 integers"),
        ("n2", 3, "hashes to"),
        ("n1", 0, "at least 1"),
        ("sha256", "0" * 64, "hashes to"),
        ("rights", "AA==", "exactly the fields"),
    ],
)
def test_indices_that_were_altered_are_refused(field: str, value: object, message: str) -> None:
    from expandermask.masks.edges import read_edges, write_edges

    written = write_edges(as_bipartite(np.array([[1, 1], [0, 0], [1, 1]])))
    with pytest.raises(FileFormatError, match=message):
        read_edges(written | {field: value}, "mask")


@pytest.mark.parametrize(
    ("degrees", "rights", "message"),
    [
        ("AQE=", "AAE=", "2 degrees of 3"),
        ("AQEC", "AAE=", "add up to 4, for 2 edges"),
        ("AgAA", "AQA=", "ascend"),
        ("AgAA", "AAA=", "ascend"),
        ("AwAA", "AAEA", "index 3 is not below 3"),
    ],
)
def test_edges_that_are_no_graph_are_refused(degrees: str, rights: str, message: str) -> None:
    from expandermask.masks.edges import read_edges

    data = {"n1": 3, "n2": 2, "sha256": "", "degrees": degrees, "rights": rights}
    with pytest.raises(FileFormatError, match=message):
        read_edges(data, "mask")


def test_a_pair_of_any_masks_has_its_shape_and_count() -> None:
    pair = MaskPair(as_bipartite(np.ones((6, 2))), as_bipartite(np.eye(2)))
    assert pair.shape == (2, 6)
    assert pair.num_values == 14
