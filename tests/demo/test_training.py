"""Batches, schedule, evaluation order, and the probe against an independent solver."""

import numpy as np
import pytest
import torch
from torch import nn

from expandermask.demo.probe import fit_probe
from expandermask.demo.training import Encoded, Schedule, accuracy, batches, logits, train


class Tokenizer:
    """Pads with zeros, as the real one does."""

    def pad(self, encoded, return_tensors):
        assert return_tensors == "pt"
        ids = encoded["input_ids"]
        width = max(map(len, ids))
        return {"input_ids": torch.tensor([row + [0] * (width - len(row)) for row in ids])}


class Model(nn.Module):
    """Logits that depend on the sum of a row's ids alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, input_ids, labels=None):
        found = self.linear(input_ids.sum(dim=1, keepdim=True).float() / 100)
        loss = None if labels is None else nn.functional.cross_entropy(found, labels)
        return type("Output", (), {"logits": found, "loss": loss})


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 9, size=rng.integers(1, 60)).tolist() for _ in range(203)]
    return Encoded(ids, torch.tensor([int(sum(row) > 130) for row in ids]), Tokenizer())


def test_an_epoch_has_every_row_once_and_little_padding(data):
    epoch = batches(data, 8, np.random.default_rng(3))
    assert sorted(row for batch in epoch for row in batch) == list(range(203))
    assert max(map(len, epoch)) == 8
    padded = sum(len(b) * max(len(data.ids[row]) for row in b) for b in epoch)
    real = sum(map(len, data.ids))
    assert padded < 1.2 * real
    assert epoch != batches(data, 8, np.random.default_rng(4))
    assert epoch == batches(data, 8, np.random.default_rng(3))


def test_the_learning_rate_rises_then_falls_to_almost_nothing():
    schedule = Schedule(1e-3, epochs=1, warmup=0.1)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert max(factors) == 1
    assert factors.index(1) == 9
    assert factors[:10] == sorted(factors[:10])
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert 0 < factors[-1] < 0.02
    assert factors[0] == pytest.approx(0.1)
    assert Schedule(1e-3, epochs=1).factor(0, 1) == 1


def test_training_is_reproducible_changes_what_it_may_and_learns(data):
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Model()
        before = accuracy(logits(model, data), data)
        trained = train(model, data, Schedule(0.1, 20, 16), seed=5, name="test", progress=False)
        assert torch.equal(model.frozen, torch.ones(3))
        found.append(model.linear.weight.detach().clone())
    assert torch.equal(*found)
    assert accuracy(logits(model, data), data) > max(before, 90)
    assert trained.steps == 20 * 13
    assert trained.trainable_values == 4
    assert trained.gradient_bytes == 16
    assert trained.optimizer_bytes == 2 * 16 + 2 * 4  # two moments a value, a counter a tensor


def test_training_is_adamw_on_each_batchs_own_gradient(data):
    """A plain loop over the same batches, unfused, with fresh gradients by construction."""
    schedule = Schedule(0.05, 2, 16)
    torch.manual_seed(0)
    model, plain = Model(), Model()
    plain.load_state_dict(model.state_dict())
    train(model, data, schedule, seed=5, name="test", progress=False)
    rng = np.random.default_rng(5)
    steps = [rows for _ in range(2) for rows in batches(data, 16, rng)]
    weights = list(plain.linear.parameters())
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for t, rows in enumerate(steps):
        loss = plain(data.batch(rows)["input_ids"], labels=data.labels[rows]).loss
        slopes = torch.autograd.grad(loss, weights)
        norm = torch.sqrt(sum((g**2).sum() for g in slopes))
        rate = 0.05 * schedule.factor(t, len(steps))
        with torch.no_grad():
            for w, g, (m, v) in zip(weights, slopes, moments, strict=True):
                g = g / max(1.0, float(norm))
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                bias = 1 - 0.999 ** (t + 1)
                w -= rate * m / (1 - 0.9 ** (t + 1)) / ((v / bias).sqrt() + 1e-8)
    assert torch.allclose(model.linear.weight, plain.linear.weight, atol=1e-5)
    assert torch.allclose(model.linear.bias, plain.linear.bias, atol=1e-5)


def test_logits_come_back_in_the_order_of_the_snippets(data):
    model = Model()
    expected = torch.stack([model(torch.tensor([row])).logits[0] for row in data.ids])
    assert torch.allclose(logits(model, data), expected, atol=1e-6)


def test_accuracy_counts():
    data = Encoded([[1]] * 4, torch.tensor([0, 1, 1, 0]), Tokenizer())
    predicted = torch.tensor([[2.0, 1], [0, 1], [3, 1], [1, 0]])
    assert accuracy(predicted, data) == 75


def test_the_probe_is_at_the_optimum():
    """Newton's method on the same objective, by torch's derivatives, ends at the same point."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 5)) * [1, 2, 3, 4, 5] + 7
    labels = torch.tensor((x[:, 0] + 0.2 * rng.normal(size=120) > 7).astype(int))
    probe = fit_probe(x, labels, 0.01)
    z = torch.tensor((x - x.mean(axis=0)) / x.std(axis=0))

    def objective(point):
        scores = z @ point[:-1] + point[-1]
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels.double())
        return loss + 0.005 * (point[:-1] ** 2).sum()

    point = torch.zeros(6, dtype=torch.float64)
    for _ in range(30):
        slope = torch.autograd.functional.jacobian(objective, point)
        curvature = torch.autograd.functional.hessian(objective, point)
        point = point - torch.linalg.solve(curvature, slope)
    assert probe.converged
    assert np.allclose(np.append(probe.weight, probe.bias), point, atol=2e-3)
    assert probe.accuracy(x, labels) > 90
