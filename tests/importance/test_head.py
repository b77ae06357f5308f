"""fit_head against the conditions of an optimum, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from expandermask.errors import AdapterError, InvalidInputError
from expandermask.importance import accuracy, fit_head
from tests.importance.models import cut, data, states


def body_and_head(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(6, 5))
    model.add_module("bend", nn.Tanh())
    model.add_module("classifier", nn.Linear(5, 3, bias=bias))
    return model.double().eval()


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_the_gradient_of_the_stated_objective_vanishes(penalty: float) -> None:
    model, (x, y) = body_and_head(), data(60)
    fit_head(model, cut((x, y), [7, 53]), penalty=penalty)
    head = model.classifier
    features = torch.tanh(model.body(x))
    spread = features.std(dim=0, correction=0)
    loss = functional.cross_entropy(model(x), y)
    loss = loss + penalty / 2 * ((head.weight * spread) ** 2).sum()
    slopes = torch.autograd.grad(loss, [head.weight, head.bias])
    assert max(float(s.abs().max()) for s in slopes) < 1e-4


def test_only_the_head_changes_and_it_beats_chance() -> None:
    model, (x, _) = body_and_head(), data(90)
    y = body_and_head()(x).argmax(dim=1)  # what some head can tell apart
    model.classifier.reset_parameters()
    before = states(model)
    fit_head(model, [(x, y)], penalty=1e-4)
    changed = [
        name
        for (name, old, *_), (_, new, *_) in zip(before, states(model), strict=True)
        if not torch.equal(old, new)
    ]
    assert changed == ["classifier.weight", "classifier.bias"]
    assert [s[2:] for s in before] == [s[2:] for s in states(model)]
    assert accuracy([(x, y)])(model) > 0.95


def test_bad_input_leaves_the_head_as_it_was() -> None:
    model, batches = body_and_head(), cut(data(), [24])
    before = states(model)
    x, y = batches[0]
    calls = [
        (lambda: fit_head(model, []), InvalidInputError, "batches is empty"),
        (lambda: fit_head(model, batches, head="nothing"), AdapterError, "no nn.Linear called"),
        (lambda: fit_head(model, [(x, y + 9)]), InvalidInputError, r"labels must lie in \[0, 3\)"),
        (lambda: fit_head(model, batches, penalty=-1), InvalidInputError, "at least 0, got -1"),
        (lambda: fit_head(model.train(), batches), InvalidInputError, r"call model\.eval"),
    ]
    for call, error, message in calls:
        with pytest.raises(error, match=message):
            call()
    model.eval()
    assert all(torch.equal(a[1], b[1]) for a, b in zip(before, states(model), strict=True))


def test_features_that_are_nan_and_batches_without_rows_are_refused() -> None:
    model, (x, y) = body_and_head(), data()
    before = states(model)
    with pytest.raises(InvalidInputError, match="NaN or infinite features"):
        fit_head(model, [(x * float("nan"), y)])
    with pytest.raises(InvalidInputError, match="no rows at all"):
        fit_head(model, [(x[:0], y[:0])])
    assert all(torch.equal(a[1], b[1]) for a, b in zip(before, states(model), strict=True))
    assert not model.classifier._forward_pre_hooks


def test_a_head_may_be_called_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(input=x)

    x, y = data()
    named, plain = Named().eval(), nn.Sequential()
    plain.add_module("head", nn.Linear(6, 3).double())
    fit_head(named, [(x, y)])
    fit_head(plain.eval(), [(x, y)])
    assert torch.equal(named.head.weight, plain.head.weight)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3])
def test_a_feature_that_never_changes_is_no_trouble(value: float) -> None:
    model, (x, y) = body_and_head(), data()
    with torch.no_grad():
        model.body.weight[0], model.body.bias[0] = 0.0, value
    fit_head(model, [(x, y)])
    assert float(model.classifier.weight.detach().abs().max()) < 10
    loss = functional.cross_entropy(model(x), y)
    (slope,) = torch.autograd.grad(loss, model.classifier.bias)
    assert float(slope.abs().max()) < 1e-4
