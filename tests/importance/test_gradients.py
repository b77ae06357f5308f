"""snip_scores and imp_scores against autograd on all data at once, in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from expandermask.adapters import AdapterConfig, attach
from expandermask.errors import InvalidInputError
from expandermask.importance import imp_scores, snip_scores
from expandermask.masks import targeted
from tests.importance.models import cut, data, mlp, states, unchanged

BOTH = pytest.mark.parametrize("kind", ["snip", "imp"])
FUNCTIONS: dict[str, Callable[..., object]] = {"snip": snip_scores, "imp": imp_scores}


def entries(model: nn.Sequential, kind: str, name: str) -> np.ndarray:
    """|g| or |w g| of every entry, (d, k), of the mean cross-entropy over all data."""
    x, y = data()
    weight = model[int(name)].weight
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(x), y), weight)
    found = (gradient if kind == "snip" else gradient * weight).abs().detach()
    return (found.T if name == "2" else found).numpy()


@BOTH
@given(
    cuts=st.sampled_from([[24], [10, 14], [1, 2, 21], [8, 8, 8], [23, 1]]),
    per_pass=st.integers(1, 4),
)
def test_scores_equal_autograd_however_the_data_are_cut(
    kind: str, cuts: list[int], per_pass: int
) -> None:
    model = mlp()
    found = FUNCTIONS[kind](model, iter(cut(data(), cuts)), modules_per_pass=per_pass)
    assert list(found) == ["0", "2", "4"]
    for name, both in found.items():
        wanted = entries(mlp(), kind, name)
        np.testing.assert_allclose(both.rows, wanted.sum(axis=1), rtol=1e-9)
        np.testing.assert_allclose(both.columns, wanted.sum(axis=0), rtol=1e-9)


@BOTH
def test_nothing_on_the_model_changes(kind: str) -> None:
    model = mlp()
    model[0].bias.requires_grad_(False)
    model[4].weight.grad = torch.ones(3, 7, dtype=torch.float64)
    before = states(model)
    for cuts in ([24], [12, 12]):
        FUNCTIONS[kind](model, cut(data(), cuts))
        assert unchanged(before, model)

    def broken(model: nn.Module, batch: object) -> torch.Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        FUNCTIONS[kind](model, cut(data(), [24]), loss=broken)
    assert unchanged(before, model)


def test_one_gradient_at_a_time() -> None:
    model, most = mlp(), 0
    weights = [model[i].weight for i in (0, 2, 4)]

    def count(_: torch.Tensor) -> None:
        nonlocal most
        most = max(most, sum(w.grad is not None for w in weights))

    for weight in weights:
        weight.register_post_accumulate_grad_hook(count)
    snip_scores(model, cut(data(), [24]))
    assert most == 1
    snip_scores(model, cut(data(), [12, 12]))
    assert most == 1
    snip_scores(model, cut(data(), [12, 12]), modules_per_pass=3)
    assert most == 3


def test_a_weight_of_two_modules_gets_the_sum_for_both() -> None:
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False))
    model = model.double().eval()
    model[2].weight = model[0].weight
    x, y = data()
    loss = functional.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, model[0].weight)
    for cuts in ([24], [12, 12]):
        found = snip_scores(model, cut(data(), cuts), ["0", "2"])  # "all-linear" leaves them out
        for name in ("0", "2"):
            np.testing.assert_allclose(found[name].rows, gradient.abs().sum(1).numpy())


def test_a_module_the_loss_does_not_need_scores_zero_and_is_refused_later() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    for cuts in ([24], [12, 12]):
        found = snip_scores(Idle().eval(), cut(data(), cuts))
        assert found["used"].rows.all()
        assert not found["idle"].rows.any()
    with pytest.raises(InvalidInputError, match="all zero"):
        targeted(found["idle"].rows, 1, 1)


def small_bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=2,
    )
    return BertForSequenceClassification(config).eval()


def bert_batches() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(0, 50, (6, 7), generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    return [{"input_ids": ids[i : i + 3], "labels": labels[i : i + 3]} for i in (0, 3)]


def test_a_transformers_model_with_adapters_on_it_is_scored_by_its_own_names() -> None:
    plain = snip_scores(small_bert(), bert_batches())
    model = small_bert()
    attach(model, AdapterConfig(r=8, target_modules=["query"]), rng=0)
    model.eval()
    found = snip_scores(model, bert_batches())
    assert list(found) == list(plain)
    name = "bert.encoder.layer.0.attention.self.query"
    np.testing.assert_allclose(found[name].rows, plain[name].rows, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, b: (m, []), "batches is empty"),
        (lambda m, b: (m, b[0]), "put a single batch in a list"),
        (lambda m, b: (m.train(), b), r"call model\.eval\(\)"),
        (
            lambda m, b: (m, [b[0] | {"labels": torch.tensor([0, 1, 2])}]),
            r"labels must lie in \[0, 2\)",
        ),
        (lambda m, b: (m, [b[0] | {"labels": torch.tensor([0, -1, 1])}]), r"got -1 to 1"),
        (
            lambda m, b: (nn.Linear(4, 1).eval(), [(torch.ones(2, 4), torch.tensor([0, 1]))]),
            "single output",
        ),
        (lambda m, b: (m, [{"input_ids": b[0]["input_ids"]}]), "needs a tensor 'labels'"),
        (lambda m, b: (m, [3]), "no tensor"),
    ],
)
def test_bad_input(change: Callable[..., tuple[nn.Module, object]], message: str) -> None:
    model, batches = change(small_bert(), bert_batches())
    with pytest.raises(InvalidInputError, match=message):
        snip_scores(model, batches)


def test_losses_that_are_not_finite_numbers_are_refused() -> None:
    for value, message in ((float("nan"), "loss of a batch is nan"), ("x", "must give one number")):
        with pytest.raises(InvalidInputError, match=message):
            snip_scores(
                mlp(),
                cut(data(), [24]),
                loss=lambda m, b, value=value: value if value == "x" else m(b[0]).sum() * value,
            )
    with pytest.raises(InvalidInputError, match="modules_per_pass must be at least 1"):
        snip_scores(mlp(), cut(data(), [24]), modules_per_pass=0)


def tokens() -> tuple[BertForTokenClassification, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = BertForTokenClassification(small_bert().config).double().eval()
    generator = torch.Generator().manual_seed(4)
    ids, labels = (torch.randint(0, n, (6, 7), generator=generator) for n in (50, 2))
    labels[0, 3:] = labels[1:3, 1:] = -100
    return model, {"input_ids": ids, "labels": labels}


def test_tokens_count_by_their_labels_however_the_data_are_cut() -> None:
    model, whole = tokens()
    name = "bert.encoder.layer.0.attention.self.query"
    wanted = snip_scores(model, [whole])[name]
    for cuts in ([2, 2, 2], [1, 5], [3, 3]):
        parts = zip(*(whole[key].split(cuts) for key in whole), strict=True)
        batches = [dict(zip(whole, part, strict=True)) for part in parts]
        found = snip_scores(model, batches)[name]
        np.testing.assert_allclose(found.rows, wanted.rows, rtol=1e-9)
    unlabelled = whole | {"labels": torch.full((6, 7), -100)}
    found = snip_scores(model, [whole, unlabelled])[name]
    np.testing.assert_allclose(found.rows, wanted.rows, rtol=1e-9)
    with pytest.raises(InvalidInputError, match="no labelled rows"):
        snip_scores(model, [unlabelled])


def test_labels_of_tokens_beyond_the_classes_are_refused() -> None:
    model, whole = tokens()
    whole["labels"][0, 0] = 7
    with pytest.raises(InvalidInputError, match="labels are -100 to 7"):
        snip_scores(model, [whole])


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_numbers_of_half_precision_do_not_vanish(kind: str, dtype: torch.dtype) -> None:
    model = mlp(dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.05)
    model, (x, y) = model.to(dtype), data(dtype=dtype)
    found = FUNCTIONS[kind](model, [(x, y)])
    wanted = FUNCTIONS[kind](model.double(), [(x.double(), y)])
    for name in found:
        np.testing.assert_allclose(found[name].rows, wanted[name].rows, rtol=0.05)


def test_batches_without_rows_weigh_nothing() -> None:
    pair, nothing = data(), (torch.empty(0, 6).double(), torch.empty(0, dtype=torch.long))
    wanted = snip_scores(mlp(), [pair])
    found = snip_scores(mlp(), [nothing, pair, nothing])
    np.testing.assert_allclose(found["0"].rows, wanted["0"].rows, rtol=1e-9)
    with pytest.raises(InvalidInputError, match="no labelled rows"):
        snip_scores(mlp(), [nothing])


def test_a_submodule_in_training_mode_is_named() -> None:
    model = mlp()
    model[2].train()
    with pytest.raises(InvalidInputError, match="its submodule '2' is training"):
        snip_scores(model, [data()])


def test_gradients_flow_where_the_caller_has_turned_them_off() -> None:
    wanted = snip_scores(mlp(), [data()])["0"].rows
    model, pair = mlp(), data()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            np.testing.assert_array_equal(snip_scores(model, [pair])["0"].rows, wanted)


def test_an_embedding_of_sparse_gradients_is_scored() -> None:
    class Table(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.table, self.out = nn.Embedding(11, 6, sparse=sparse), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(x).mean(dim=1))

    ids, y = torch.arange(24).view(8, 3) % 9, torch.arange(8) % 3
    one, other = (
        snip_scores(Table(s).eval(), [(ids, y)], ["table"])["table"] for s in (True, False)
    )
    assert one.shape == (6, 11)
    np.testing.assert_allclose(one.columns, other.columns, rtol=1e-6)
    assert not one.columns[9:].any()


@pytest.mark.parametrize("cuts", [[24], [12, 12]])
def test_a_finite_loss_with_a_gradient_that_is_not_is_refused(cuts: list[int]) -> None:
    model = mlp()
    before = states(model)
    with pytest.raises(InvalidInputError, match="gradient of '4' has NaN or infinite entries"):
        snip_scores(
            model, cut(data(), cuts), ["4"], loss=lambda m, b: (m(b[0]) * 0).abs().sum().sqrt()
        )
    assert unchanged(before, model)
