"""shira_mask_fn: proved masks of SHiRA's size, end to end in PEFT."""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from expandermask import BiregularGraph, certify
from expandermask.errors import InfeasibleShapeError, InvalidInputError
from expandermask.masks.shira import shira_mask_fn


def layers(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32), nn.Linear(32, 32))


def shira(rng: int | None = 0) -> peft.PeftModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Argument self.mask_type")
        config = peft.ShiraConfig(r=2, mask_type="ramanujan", target_modules=["0", "2", "3"])
    config.mask_fn = shira_mask_fn(rng=rng)
    return peft.get_peft_model(layers(), config)


@pytest.mark.parametrize(("m", "n", "r"), [(32, 32, 1), (64, 32, 2), (32, 64, 4), (48, 32, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_has_the_size_shape_and_dtype_and_is_proved(
    m: int, n: int, r: int, dtype: torch.dtype
) -> None:
    layer = nn.Linear(n, m, dtype=dtype)
    mask = shira_mask_fn(rng=1)(layer, r, bias=True)
    assert (mask.shape, mask.dtype, mask.device) == (layer.weight.shape, dtype, layer.weight.device)
    assert int((mask == 1).sum()) == r * (m + n)
    assert int((mask == 0).sum()) == m * n - r * (m + n)
    graph = BiregularGraph.from_mask(mask.float().numpy())
    assert certify(graph).verdict == "PROVED"


def test_one_seed_gives_one_mask_and_other_seeds_others() -> None:
    layer = nn.Linear(64, 32)
    first, again, other = (shira_mask_fn(rng=seed)(layer, 4) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    drawn = shira_mask_fn()
    assert torch.equal(drawn(layer, 4), drawn(layer, 4))


@pytest.mark.parametrize(
    ("m", "n", "r", "words"),
    [
        (32, 48, 3, "multiple of 6, and at most 19; the nearest r that works: 6"),
        (32, 48, 13, "the nearest r that works: 12 or 18"),
        (32, 32, 20, "at most 16; the nearest r that works: 16"),
        (5, 7, 2, "no r works"),
    ],
)
def test_sizes_without_a_graph_are_refused(m: int, n: int, r: int, words: str) -> None:
    with pytest.raises(InfeasibleShapeError, match=words):
        shira_mask_fn(rng=0)(nn.Linear(n, m), r)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="method must be one of"):
        shira_mask_fn(method="best")
    with pytest.raises(InvalidInputError, match="r must be at least 1"):
        shira_mask_fn()(nn.Linear(8, 8), 0)
    with pytest.raises(InvalidInputError, match="2-D weight, got LayerNorm"):
        shira_mask_fn()(nn.LayerNorm(8), 1)


def test_peft_trains_only_the_masked_entries_and_reloads(tmp_path: Path) -> None:
    model, x = shira(), torch.randn(5, 32)
    before = {name: p.detach().clone() for name, p in model.get_base_model().named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).pow(2).sum().backward()
        optimizer.step()
    trained = model(x)
    model.save_pretrained(str(tmp_path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Argument self.mask_type")
        loaded = peft.PeftModel.from_pretrained(layers(), str(tmp_path))
    torch.testing.assert_close(loaded(x), trained)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x), trained)
    for name in ("0", "2", "3"):
        layer = merged.get_submodule(name)
        moved = layer.weight.detach() != before[f"{name}.base_layer.weight"]
        mask = shira_mask_fn(rng=0)(layer, 2)
        assert moved.any()
        assert not (moved & (mask == 0)).any()
