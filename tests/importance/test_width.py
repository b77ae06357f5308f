"""width_bound against the printed formulas, worked out again from its own answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from expandermask.errors import InvalidInputError
from expandermask.importance import LayerSize, layer_sizes, width_bound
from tests.importance.models import data, mlp

LAYERS = [
    LayerSize(32, 2.0, 3.0, 900),
    LayerSize(64, 5.0, 1.5, 2000),
    LayerSize(16, 0.5, 4.0, 1000),
]


@pytest.mark.parametrize("densities", [0.25, [0.1, 0.5, 0.9]])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_the_answer_satisfies_the_printed_equations(densities: object, gamma: float) -> None:
    eps, delta, c = 0.05, 0.01, 1.7
    found = width_bound(LAYERS, densities, eps=eps, delta=delta, constant=c, gamma=gamma)
    p = [densities] * 3 if isinstance(densities, float) else list(densities)
    total, last = 3900, found.widths[2]
    brackets = [
        (1 + 3.0) * (1 + eps / 3) * (5.0 + eps / 3),  # k = 2 .. L - 1 = 2
        (1 + 1.5) * (1 + eps / 3),
        (1 + 4.0) * (1 + eps / 3),
    ]
    errors = [eps / (last * 3) / bracket for bracket in brackets]
    assert found.errors == pytest.approx(errors, rel=1e-9)
    power = math.log(1 / (1 - min(p))) ** (1 + gamma)
    rho = c * total ** (1 + gamma) / power * math.log(1 / min(*errors, delta))
    assert found.rho == pytest.approx(rho, rel=1e-9)
    for width, layer, q, error in zip(found.widths, LAYERS, p, errors, strict=True):
        bound = c * layer.width / math.log(1 / (1 - q)) * math.log(1 / min(error, delta / rho))
        assert width == pytest.approx(max(layer.width, bound), rel=1e-9)


def test_it_grows_as_it_says() -> None:
    def first(**changes: float) -> float:
        asked = {"densities": 0.3, "eps": 0.1, "delta": 0.1} | changes
        return width_bound(LAYERS, asked.pop("densities"), **asked).widths[0]

    assert first(densities=0.1) > first() > first(densities=0.9)
    assert first(eps=0.001) > first() > first(eps=0.9)
    assert first(delta=1e-9) > first()
    assert first(constant=3.0) > 2.9 * first()


def test_sizes_of_a_model_are_measured() -> None:
    model, (x, _) = mlp(), data()
    found = layer_sizes(model, [x[:10], x[10:]])
    assert [s.width for s in found.values()] == [9, 7, 3]
    hidden = torch.tanh(model[0](x))
    assert found["2"].input_norm == pytest.approx(float(hidden.abs().sum(1).max()))
    assert found["0"].input_norm == pytest.approx(float(x.abs().sum(1).max()))
    assert found["2"].norm == pytest.approx(float(model[2].weight.T.abs().sum(1).max()))
    assert [s.parameters for s in found.values()] == [54, 63, 21]
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert width_bound(list(found.values()), 0.5, eps=0.1, delta=0.1).widths[0] > 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": []}, "layers is empty"),
        ({"layers": {"a": LayerSize(4, 1.0, 1.0, 16)}}, r"sequence of LayerSize.*has 'a'"),
        ({"layers": torch.nn.Sequential(torch.nn.Linear(2, 2))}, "sequence of LayerSize"),
        ({"densities": 1.0}, r"densities must lie in \(0, 1\), got 1.0"),
        ({"densities": [0.5]}, "one for each of 3 layers"),
        ({"densities": "half"}, "one for each of 3 layers"),
        ({"densities": ["a", "b", "c"]}, "a density must be a real number, got 'a'"),
        ({"densities": None}, "a density must be a real number, got None"),
        ({"eps": "small"}, "eps must be a real number, got 'small'"),
        ({"delta": True}, "delta must be a real number, got True"),
        ({"constant": None}, "constant must be a real number"),
        ({"eps": 0.0}, r"eps must lie in \(0, 1\)"),
        ({"delta": 1.0}, r"delta must lie in \(0, 1\)"),
        ({"constant": 0.0}, "constant > 0"),
        ({"gamma": -1.0}, "gamma >= 0"),
        ({"gamma": float("nan")}, "gamma >= 0, both finite"),
        ({"constant": float("inf")}, "both finite, got inf"),
        ({"gamma": 1000.0}, "grow without end"),
        ({"layers": [LayerSize(0, 1.0, 1.0, 9)]}, r"layers\[0\] must have a width"),
        ({"layers": [*LAYERS, LayerSize(4, float("nan"), 1.0, 9)]}, r"layers\[3\].*finite"),
        ({"layers": [LayerSize(4, 1.0, float("inf"), 9)]}, r"layers\[0\].*finite"),
        ({"layers": [LayerSize(4, 0.0, 1.0, 0)]}, "no nonzero parameters"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    asked = {"layers": LAYERS, "densities": 0.5, "eps": 0.1, "delta": 0.1} | changes
    with pytest.raises(InvalidInputError, match=message):
        width_bound(asked.pop("layers"), asked.pop("densities"), **asked)  # type: ignore[arg-type]


def test_a_training_model_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="layer_sizes needs"):
        layer_sizes(nn.Sequential(nn.Linear(2, 2)), [torch.ones(1, 2)])


def test_small_densities_are_not_rounded_to_zero() -> None:
    one, other = (
        width_bound(LAYERS, p, eps=0.1, delta=0.1, constant=p).widths[0] for p in (1e-18, 1e-12)
    )
    assert 1 < one / other < 1.5  # C / p is 1, the rest grows by logarithms


def test_inputs_are_measured_however_they_are_given_and_must_be_finite() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(input=x)

    (x, _), model = data(), Named().eval()
    assert layer_sizes(model, [x])["layer"].input_norm == float(x.abs().sum(1).max())
    with pytest.raises(InvalidInputError, match="an input of 'layer' has NaN"):
        layer_sizes(model, [x, x * float("nan")])
    assert not model.layer._forward_pre_hooks
