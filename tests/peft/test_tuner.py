"""The PEFT tuner beyond PEFT's contract: masks are attach's, hashes guard files, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from expandermask.adapters import AdapterConfig, attach
from expandermask.errors import (
    AdapterError,
    FileFormatError,
    InfeasibleShapeError,
    InvalidInputError,
)
from expandermask.peft._tuner import TESTED_PEFT, XoraConfig
from tests.adapters.models import bert, gpt2, logits, mlp, same, tokens
from tests.peft.cases import CASES, layers, stir


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        found[f"requires_grad {name}"] = torch.tensor(parameter.requires_grad)
    return found


@pytest.mark.parametrize("name", list(CASES))
def test_masks_and_first_values_are_those_of_attach(name: str) -> None:
    case = CASES[name]
    tuned = peft.get_peft_model(case.make(), case.config(left_degree=4, mask_seed=11))
    other = case.make()
    config = AdapterConfig(r=16, left_degree=4, target_modules=case.targets)
    plan = attach(other, config, rng=11)
    assert tuned.base_model.mask_plans["default"] == plan
    for name, layer in layers(tuned.get_base_model()).items():
        mine, theirs = layer.xora_adapter["default"], other.get_submodule(name).adapter("default")
        assert mine.scale == theirs.scale
        for side in ("lora_A", "lora_B", "index_a", "index_b"):
            assert torch.equal(getattr(mine, side), getattr(theirs, side))
        assert layer.what in plan


def test_a_seed_is_drawn_once_and_kept(tmp_path: Path) -> None:
    config = XoraConfig(r=16, target_modules=["0"])
    assert config.mask_seed is None
    model = peft.get_peft_model(mlp(), config)
    seed = config.mask_seed
    assert isinstance(seed, int)
    assert model.base_model.mask_plans["default"].seed == seed
    model.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["mask_seed"] == seed
    assert peft.PeftConfig.from_pretrained(str(tmp_path)).mask_seed == seed


def test_adapters_of_one_config_draw_seeds_of_their_own() -> None:
    config = XoraConfig(r=16, target_modules=["0"])
    model = peft.get_peft_model(mlp(), config)
    model.add_adapter("other", config)
    plans = model.base_model.mask_plans
    seeds = {name: model.peft_config[name].mask_seed for name in plans}
    assert {name: plan.seed for name, plan in plans.items()} == seeds
    assert seeds["default"] == config.mask_seed != seeds["other"]
    fresh = mlp()
    torch.manual_seed(9)
    again = peft.get_peft_model(fresh, config)
    assert again.peft_config["default"].mask_seed not in seeds.values()
    chosen = XoraConfig(r=16, target_modules=["0"], mask_seed=5)
    model.add_adapter("third", chosen)
    model.add_adapter("fourth", chosen)
    assert plans["third"] == plans["fourth"]


def test_a_table_of_another_length_is_left_out_if_peft_is_asked_to(tmp_path: Path) -> None:
    def model(rows: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(rows, 16), nn.Linear(16, 16))

    config = XoraConfig(
        r=8, target_modules=["0", "1"], mask_seed=0, infeasible="nearest", init_lora_weights=False
    )
    saved = peft.get_peft_model(model(100), config)
    saved.save_pretrained(str(tmp_path))
    with pytest.raises(RuntimeError, match=r"size mismatch for .*\[100, 2\].*\[104, 2\]"):
        peft.PeftModel.from_pretrained(model(104), str(tmp_path))
    loaded = peft.PeftModel.from_pretrained(model(104), str(tmp_path), ignore_mismatched_sizes=True)
    ours, theirs = (layers(m.get_base_model())["1"].adapter("default") for m in (loaded, saved))
    torch.testing.assert_close(ours.delta(), theirs.delta())
    loaded.save_pretrained(str(tmp_path))
    again = peft.PeftModel.from_pretrained(model(104), str(tmp_path))
    table, other = (layers(m.get_base_model())["0"].adapter("default") for m in (again, loaded))
    torch.testing.assert_close(table.delta(), other.delta())


def change_config(folder: Path, change: dict[str, object]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_values_of_other_masks_are_refused(tmp_path: Path) -> None:
    case = CASES["bert"]
    case.adapted().save_pretrained(str(tmp_path))
    change_config(tmp_path, {"mask_method": "random"})
    with pytest.raises(FileFormatError, match=r"'bert\.\S+' were trained on other masks .*differs"):
        peft.PeftModel.from_pretrained(case.make(), str(tmp_path))


@pytest.mark.parametrize("name", list(CASES))
def test_values_bring_the_masks_of_their_own_seed(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    first = case.adapted(mask_seed=2**64 - 1)
    first.save_pretrained(str(tmp_path))
    change_config(tmp_path, {"mask_seed": 1})
    again = peft.PeftModel.from_pretrained(case.make(), str(tmp_path))
    assert again.base_model.mask_plans == first.base_model.mask_plans
    assert again.peft_config["default"].mask_seed == 2**64 - 1
    assert torch.equal(case.out(again.eval()), case.out(first))


@pytest.mark.parametrize("low", [False, True])
def test_values_without_a_hash_are_refused(low: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    case, path = CASES["mlp"], tmp_path / "adapter_model.safetensors"
    case.adapted().save_pretrained(str(tmp_path))
    tensors = {n: t for n, t in load_file(path).items() if "0.xora_adapter.mask" not in n}
    save_file(tensors, path)
    with pytest.raises(FileFormatError, match=r"'0' .*hash is missing"):
        peft.PeftModel.from_pretrained(case.make(), str(tmp_path), low_cpu_mem_usage=low)


def test_a_module_missing_from_a_file_stays_on_meta_and_is_warned_of(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    case, path = CASES["mlp"], tmp_path / "adapter_model.safetensors"
    case.adapted().save_pretrained(str(tmp_path))
    save_file({n: t for n, t in load_file(path).items() if ".2.xora" not in n}, path)
    with pytest.warns(UserWarning, match="Found missing adapter keys"):
        model = peft.PeftModel.from_pretrained(case.make(), str(tmp_path), low_cpu_mem_usage=True)
    meta = {n for n, p in model.named_parameters() if p.is_meta}
    assert meta == {f"base_model.model.2.xora_adapter.default.lora_{side}" for side in "AB"}


def test_a_whole_models_state_dict_goes_through_the_same_guard() -> None:
    first, second = CASES["mlp"].adapted(), CASES["mlp"].adapted(mask_method="random")
    first.load_state_dict(CASES["mlp"].adapted(mask_seed=7).state_dict())
    assert first.base_model.mask_plans["default"].seed == 7
    with pytest.raises(FileFormatError, match="trained on other masks"):
        first.load_state_dict(second.state_dict())
    first.load_state_dict({}, strict=False)


def test_an_infeasible_shape_names_module_and_ranks_and_leaves_the_model() -> None:
    model = bert()
    before = state(model)
    with pytest.raises(InfeasibleShapeError, match=r"'classifier'.*r = .* works"):
        peft.get_peft_model(model, XoraConfig(r=64, target_modules=["query", "classifier"]))
    assert same(state(model), before)
    assert not layers(model)
    tuned = peft.get_peft_model(model, XoraConfig(r=16, mask_seed=0))
    before = state(tuned)
    with pytest.raises(InfeasibleShapeError):
        tuned.add_adapter("other", XoraConfig(r=24))
    assert same(state(tuned), before)
    assert list(tuned.peft_config) == list(tuned.base_model.mask_plans) == ["default"]


def test_a_plan_goes_again_if_peft_refuses_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no")

    model = CASES["mlp"].adapted()
    monkeypatch.setattr(BaseTuner, "inject_adapter", refuse)
    with pytest.raises(ValueError, match="no"):
        model.add_adapter("other", XoraConfig(r=16))
    assert list(model.base_model.mask_plans) == ["default"]


def test_all_linear_is_what_it_is_for_attach_whatever_is_there_already() -> None:
    model = peft.get_peft_model(
        bert(), XoraConfig(r=16, modules_to_save=["classifier", "pooler.dense"])
    )
    names = set(model.base_model.mask_plans["default"])
    plan = attach(bert(), AdapterConfig(r=16))
    assert names == set(plan) - {"bert.pooler.dense"}
    model.add_adapter("other", XoraConfig(r=16, modules_to_save=["classifier", "pooler.dense"]))
    assert set(model.base_model.mask_plans["other"]) == names
    model.add_adapter("third", XoraConfig(r=16))  # not into the wrappers of the others' heads
    assert set(model.base_model.mask_plans["third"]) == names
    model.add_adapter("fourth", XoraConfig(r=16, target_modules=".*query.*"))  # nor into layers
    queries = {name for name in names if name.endswith("query")}
    assert set(model.base_model.mask_plans["fourth"]) == queries


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"target_modules": r".*\.1\..*(query|value)"}, {"query", "value"}),
        ({"target_modules": ["query", "key"], "exclude_modules": ["key"]}, {"query"}),
        ({"target_modules": ["key"], "layers_to_transform": 1}, {"key"}),
        (
            {"target_modules": ["key"], "layers_to_transform": [1], "layers_pattern": "layer"},
            {"key"},
        ),
        ({"target_modules": None}, {"query", "value"}),
    ],
)
def test_targets_are_matched_as_peft_matches_them(
    settings: dict[str, object], expected: set[str]
) -> None:
    model = peft.get_peft_model(bert(), XoraConfig(r=16, **settings))
    names = set(model.base_model.mask_plans["default"])
    assert {name.rsplit(".", 1)[1] for name in names} == expected
    assert set(layers(model.get_base_model())) == names
    if "layers_to_transform" in settings:
        assert all(".layer.1." in name for name in names)


def test_targets_from_a_state_dict_get_their_masks_too() -> None:
    full = peft.inject_adapter_in_model(XoraConfig(r=16, mask_seed=0), mlp())
    found = peft.get_peft_model_state_dict(full)
    with pytest.warns(RuntimeWarning, match="additional target modules"):
        model = peft.inject_adapter_in_model(
            XoraConfig(r=16, mask_seed=0, target_modules=["0"]), mlp(), state_dict=found
        )
    result = peft.set_peft_model_state_dict(model, found)
    assert not result.unexpected_keys
    assert same(peft.get_peft_model_state_dict(model), found)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 1}, "r must be at least 2"),
        ({"left_degree": 99}, "left_degree must be at most"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"scaling": "big"}, "scaling must be one of"),
        ({"mask_method": "best"}, "mask_method must be one of"),
        ({"mask_seed": -1}, "at least 0"),
        ({"layers_pattern": "layer", "target_modules": ["a"]}, "must also be specified"),
        ({"layers_to_transform": 1}, "when `target_modules` is a str"),
    ],
)
def test_configs_are_checked(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        XoraConfig(**settings)


def test_one_config_gives_one_file(tmp_path: Path) -> None:
    for names, folder in ((["b", "a", "c"], "first"), (["c", "b", "a"], "second")):
        XoraConfig(target_modules=names, mask_seed=2**64 - 1).save_pretrained(tmp_path / folder)
    first, second = (
        (tmp_path / f / "adapter_config.json").read_text() for f in ("first", "second")
    )
    assert first == second
    assert XoraConfig.from_pretrained(tmp_path / "first").mask_seed == 2**64 - 1


class Scaled(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 8 * super().forward(ids)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.LayerNorm(64), "LayerNorm is neither a linear"),
        (nn.Conv1d(64, 64, 1), "Conv1d is neither a linear"),
        (Scaled(96, 64), "forward of its own"),
        (nn.Embedding(96, 64, max_norm=1.0), "max_norm"),
        (nn.MultiheadAttention(64, 4), "can compute with its weight without calling it"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused(module: nn.Module, words: str) -> None:
    model = nn.ModuleDict({"fine": nn.Linear(64, 64), "bad": module})
    before = state(model)
    targets = "fine|bad.out_proj" if isinstance(module, nn.MultiheadAttention) else "fine|bad"
    with pytest.raises(AdapterError, match=words):
        peft.get_peft_model(model, XoraConfig(r=16, target_modules=targets))
    assert same(state(model), before)


def test_a_tied_weight_is_adapted_but_not_merged() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings")
        model = peft.get_peft_model(gpt2(), XoraConfig(r=16, target_modules=["wpe", "c_attn"]))
        model.merge_adapter()
        model.unmerge_adapter()
        tied = peft.get_peft_model(gpt2(), XoraConfig(r=4, target_modules=["wte"]))
    stir(tied)
    before = state(tied)
    for merge in (tied.merge_adapter, tied.merge_and_unload):
        with pytest.raises(AdapterError, match="is tied to 'lm_head"):
            merge()
    assert same(state(tied), before)
    tied.unload()


def test_dropout_falls_on_the_update_while_training_only() -> None:
    case = CASES["mlp"]
    model = case.adapted(lora_dropout=0.5)
    assert torch.equal(case.out(model), case.out(model))
    model.train()
    assert not torch.equal(case.out(model), case.out(model))
    with model.disable_adapter():
        assert torch.equal(case.out(model), case.out(case.make()))


def test_an_adapter_is_put_on_in_the_mode_the_model_is_in() -> None:
    case = CASES["mlp"]
    model = peft.get_peft_model(case.make().eval(), case.config(lora_dropout=0.5))
    stir(model)
    assert torch.equal(case.out(model), case.out(model))


def test_a_model_moved_while_merged_gets_its_own_bits_in_the_new_dtype() -> None:
    model = CASES["mlp"].adapted()
    model.merge_adapter()
    model.to(torch.bfloat16)
    model.unmerge_adapter()
    assert torch.equal(model.get_base_model()[0].weight, mlp()[0].weight.bfloat16())


def test_get_delta_weight_is_what_merging_adds() -> None:
    for name in ("mlp", "gpt2", "embedding"):
        model = CASES[name].adapted()
        for layer in layers(model).values():
            before = layer.weight.detach().clone()
            layer.merge()
            expected = before + layer.get_delta_weight("default")
            torch.testing.assert_close(layer.weight.detach(), expected)


def test_generate_works_on_a_causal_model(tmp_path: Path) -> None:
    model = peft.get_peft_model(gpt2(), XoraConfig(r=16, task_type="CAUSAL_LM", mask_seed=0))
    stir(model)
    found = model.generate(input_ids=tokens()[:, :5], max_new_tokens=4, do_sample=False)
    merged = model.merge_and_unload()
    expected = merged.generate(input_ids=tokens()[:, :5], max_new_tokens=4, do_sample=False)
    assert torch.equal(found, expected)
    assert logits(merged).isfinite().all()


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code, *arguments],
        capture_output=True,
        text=True,
    )


def test_the_package_loads_peft_only_when_it_is_asked_for() -> None:
    code = """
import sys, expandermask.adapters as xa
assert "peft" not in sys.modules
assert "XoraConfig" in dir(xa)
try:
    xa.Nothing
except AttributeError as error:
    assert "Nothing" in str(error)
else:
    raise SystemExit("no AttributeError")
assert xa.XoraConfig(mask_seed=0).peft_type == "XORA"
assert "peft" in sys.modules
"""
    found = run(code)
    assert found.returncode == 0, found.stderr


def test_loading_without_the_import_names_the_missing_type(tmp_path: Path) -> None:
    CASES["mlp"].adapted().save_pretrained(str(tmp_path))
    load = "import sys, peft, torch; base = torch.nn.Sequential(torch.nn.Linear(64, 32), "
    load += "torch.nn.Tanh(), torch.nn.Linear(32, 64, bias=False)); "
    load += "peft.PeftModel.from_pretrained(base, sys.argv[1])"
    found = run(load, str(tmp_path))
    assert "KeyError: 'XORA'" in found.stderr
    assert run(f"import expandermask.peft._tuner; {load}", str(tmp_path)).returncode == 0


def test_an_untested_peft_is_warned_of_once() -> None:
    assert any(peft.__version__.startswith(f"{minor}.") for minor in TESTED_PEFT)
    code = """
import warnings, peft
peft.__version__ = "0.99.1"
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import expandermask.peft._tuner
    import expandermask.peft._tuner
    from expandermask.adapters import XoraConfig
words = [str(w.message) for w in seen if "XORA" in str(w.message)]
assert len(words) == 1 and "0.99.1" in words[0], words
"""
    found = run(code)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("name", ["mlp", "embedding"])
def test_without_zero_first_values_the_update_is_random_and_of_the_seed(name: str) -> None:
    case = CASES[name]
    base = case.out(case.make().eval())
    found = [
        case.out(peft.get_peft_model(case.make().eval(), case.config(init_lora_weights=False, **s)))
        for s in ({}, {}, {"mask_seed": 1})
    ]
    torch.testing.assert_close(found[0], found[1])
    for one, other in ((found[0], base), (found[0], found[2])):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' .* only True and False; use"),
        ({"bias": "most"}, "bias must be one of"),
        ({"infeasible": "near"}, "infeasible must be one of"),
        ({"rank_pattern": {"(": 4}}, "rank_pattern must map regular expressions"),
        ({"rank_pattern": {"q": 4.5}}, r"rank_pattern\['q'\] must be an integer"),
        ({"alpha_pattern": {"q": 0}}, r"alpha_pattern\['q'\] must be positive"),
    ],
)
def test_what_lora_has_too_is_checked(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        XoraConfig(**settings)
