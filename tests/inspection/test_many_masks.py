"""inspect_mask of many masks: plans, mappings and state dicts, and what is said of the whole."""

from __future__ import annotations

import json

import numpy as np
import psutil
import torch

import expandermask as xm
from expandermask.graphs import heawood, random_biregular
from expandermask.inspection.checkpoint_report import CheckpointReport
from expandermask.inspection.inspect_mask import inspect_mask
from tests import cases


def test_a_plan_is_reported_mask_by_mask_with_its_products():
    shapes = {"q": (48, 96), "v": (96, 48)}
    plan = xm.MaskPlan.for_shapes(shapes, r=12, method="random", rng=0)
    report = inspect_mask(plan)
    assert isinstance(report, CheckpointReport)
    assert report.source == "MaskPlan"
    assert {name: r.certificate for name, r in report.items()} == plan.certify()
    for name, pair in plan.items():
        product = report.products[name]
        joined = pair.b.mask().astype(int) @ pair.a.mask().T.astype(int)
        assert (product.outputs, product.inputs) == pair.shape == joined.shape
        assert product.joined == np.count_nonzero(joined)
    assert report.verdicts == {"PROVED": 4}
    assert (len(report.damaged), len(report.skipped)) == (0, 0)


def test_a_mapping_of_masks_pairs_and_what_is_none():
    good = heawood().mask()
    bad = good.astype(float)
    bad[2, 3] = np.nan
    report = inspect_mask(
        {
            "good": good,
            "bad": bad,
            "text": "no mask",
            "bias": np.zeros(7),
            "kernel": torch.zeros(2, 2, 3),
            "nested": torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
            "none": np.zeros((0, 4)),
            "pair": (np.ones((2, 5)), np.eye(2)),
            "torn": (np.ones((2, 5)), np.eye(3)),
            "half": (np.zeros(2), np.eye(2)),
        }
    )
    assert list(report) == ["good", "pair.A", "pair.B", "torn.A", "torn.B", "half.B"]
    assert report.damaged["bad"] == "bad holds nan at [2, 3]; entries must be finite"
    assert "real numbers" in report.damaged["text"]
    assert "nested" in report.damaged["nested"]
    assert "got 2 and 3" in report.damaged["B A of torn"]
    assert report.skipped == {
        "bias": (7,),
        "kernel": (2, 2, 3),
        "none": (0, 4),
        "half.A": (2,),
    }
    assert list(report.products) == ["pair"]
    text = str(report)
    assert "damaged bad" in text
    assert "skipped" in text


def test_factors_of_a_state_dict_are_paired_by_name():
    a, b = np.eye(2, 5), np.ones((3, 2))
    names = {
        "m.q.lora_A.weight": a,
        "m.q.lora_B.weight": b,
        "m.v.lora_B.default.weight": b,
        "m.v.lora_A.other.weight": a,
        "m.v.lora_A.default.weight": a,
        "m.e.lora_embedding_A": a,
        "m.e.lora_embedding_B": b,
        "m.e.lora_magnitude_vector": np.ones(3),
    }
    report = inspect_mask(names)
    assert sorted(report.products) == ["m.e", "m.q", "m.v.default"]
    assert {p.joined for p in report.products.values()} == {6}


def test_a_factor_without_its_other_one_is_damage():
    a, b = np.eye(2, 5), np.ones((3, 2))
    broken = np.full((3, 2), np.nan)
    report = inspect_mask(
        {
            "q.lora_A.weight": a,
            "v.lora_B.default.weight": b,
            "v.lora_A.other.weight": a,
            "k.lora_A": a,
            "k.lora_B": broken,
            "half": (np.zeros(2), np.eye(2)),
            "whole.lora_B": b,
            "whole.lora_A": a,
        }
    )
    assert list(report.products) == ["whole"]
    assert report.damaged.pop("k.lora_B").startswith("k.lora_B holds nan")
    why = "only {} of the two factors could be inspected, so there is no product"
    assert report.damaged == {
        "B A of q": why.format("A"),
        "B A of v.default": why.format("B"),
        "B A of v.other": why.format("A"),
        "B A of k": why.format("A"),
        "B A of half": why.format("B"),
    }
    assert "damaged B A of q" in str(report)


def test_only_a_mask_pair_is_taken_for_one():
    class Other:
        a = b = heawood()

    assert list(inspect_mask({"x": Other()}).damaged) == ["x"]


def test_factors_that_are_too_large_to_multiply_are_damage(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10**8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    factors = {"m.lora_A": np.ones((3000, 3000), np.uint8), "m.lora_B": np.ones((2, 3000))}
    report = inspect_mask(factors)
    assert report.verdicts == {"DENSE": 2}
    assert "9,000,000" in report.damaged["B A of m"]


def test_the_worst_come_first():
    random = xm.ramanujan_graph(48, 12, 2, method="random", rng=0)
    report = inspect_mask(
        {
            "dense": np.ones((3, 3)),
            "proved": xm.graphs.tutte_coxeter(),
            "random": random,
            "refuted": cases.hypercube(7),
            "star": np.eye(4),
            "empty": np.zeros((2, 2)),
            "dead": np.eye(4)[:, :2],
            "irregular": np.triu(np.ones((3, 3))),
        }
    )
    assert report.worst() == [
        *("refuted", "empty", "dead", "irregular", "star", "random", "proved", "dense")
    ]
    assert list(report.verdicts.values()) == [1, 1, 2, 1, 2, 1]
    assert report.worst(2) == ["refuted", "empty"]
    assert report.table()[1][:2] == ("refuted", "REFUTED")
    data = json.loads(report.to_json())
    assert data["masks"]["dead"]["rows"]["dead"] == 2
    assert data["verdicts"] == report.verdicts


def test_long_tables_are_cut():
    masks = {f"mask {k}": random_biregular(12, 6, 2, rng=k) for k in range(14)}
    text = str(inspect_mask(masks))
    assert text.splitlines()[-1] == "and 4 more, no worse"
    assert sum(line.startswith("mask ") for line in text.splitlines()) == 1 + 10


def test_equal_masks_are_certified_once(monkeypatch):
    from expandermask.inspection import measure

    calls = []
    monkeypatch.setattr(measure, "certify", lambda g: calls.append(g) or xm.certify(g))
    graph = heawood()
    report = inspect_mask({"a": graph, "b": graph.mask(), "c": xm.graphs.pappus()})
    assert len(calls) == 2
    assert report["a"].certificate is report["b"].certificate


def test_progress_is_shown_when_asked_for(capsys):
    masks = {"a": heawood(), "b": heawood()}
    inspect_mask(masks)
    assert capsys.readouterr().err == ""
    inspect_mask(masks, progress=True)
    assert "masks: 100%" in capsys.readouterr().err
