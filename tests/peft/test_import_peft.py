"""import_peft: equal logits from stock LoRA folders, masks back from exports, strict refusals."""

from __future__ import annotations

import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    adapter_names,
    attach,
    detach,
    disable_adapters,
    export_peft,
    import_peft,
    load_adapter,
    save_adapter,
    set_adapters,
)
from expandermask.adapters.attachment import attachment, is_attached
from expandermask.adapters.attachment import masked_layers as layers
from expandermask.errors import AdapterError, FileFormatError, InvalidInputError
from tests.adapters.models import attached, bert, gpt2, logits, mlp, randomise, same, tokens
from tests.adapters.readers import MODELS, deltas
from tests.peft.cases import CASES

SHAPES = {"0": (32, 64), "2": (64, 32)}
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def stock(make: Callable[[], nn.Module], folder: Path, **settings: Any) -> peft.PeftModel:
    """A stock LoRA that does something, saved."""
    torch.manual_seed(2)
    targets = {bert: ["query", "value"], gpt2: ["c_attn", "c_proj"], mlp: ["0", "2"]}
    fields = {"r": 8, "lora_alpha": 12, "init_lora_weights": False, "lora_dropout": 0.25}
    fields |= {"target_modules": targets.get(make), "fan_in_fan_out": make is gpt2}
    model = peft.get_peft_model(make(), peft.LoraConfig(**(fields | settings))).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")
        model.save_pretrained(str(folder))
    return model


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of the config."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change tensors, keeping the metadata."""
    path = folder / WEIGHTS
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    ("ranks", "alphas"),
    [({"0": 3}, {}), ({"2": 1}, {"2": 5}), ({}, {"0": 40}), ({"0": 16, "2": 5}, {"0": 1, "2": 9})],
)
def test_stock_loras_of_several_ranks_and_scales_give_the_same_output(
    ranks: dict[str, int], alphas: dict[str, int], rslora: bool, tmp_path: Path
) -> None:
    patterns = {"rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": rslora}
    theirs, x = stock(mlp, tmp_path, **patterns), torch.randn(5, 64)
    model = mlp().eval()
    plan = import_peft(model, tmp_path)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)
    found = {name: layer.adapter("default").lora_A.numel() for name, layer in layers(model).items()}
    assert found == {"0": 64 * ranks.get("0", 8), "2": 32 * ranks.get("2", 8)}
    assert plan.r == max(ranks.get("0", 8), ranks.get("2", 8))
    save_adapter(model, tmp_path / "own")
    fresh = mlp().eval()
    load_adapter(fresh, tmp_path / "own")
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("make", [bert, gpt2])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"lora_alpha": 7, "r": 12}])
def test_a_stock_lora_gives_the_same_logits(
    make: Callable[[], nn.Module], settings: dict[str, Any], tmp_path: Path
) -> None:
    expected = logits(stock(make, tmp_path, **settings))
    model = make()
    before = logits(model)
    plan = import_peft(model, tmp_path)
    assert plan.left_degree == plan.r == settings.get("r", 8)
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    alpha, r = settings.get("lora_alpha", 12), plan.r
    scale = alpha / math.sqrt(r) if settings.get("use_rslora") else alpha / r
    for layer in layers(model).values():
        assert layer.adapter("default").scale == pytest.approx(scale, rel=1e-12)
        assert layer.adapter("default").dropout == 0.25


def test_heads_and_tables_come_along(tmp_path: Path) -> None:
    expected = stock(bert, tmp_path / "head", modules_to_save=["classifier"])
    with torch.no_grad():
        expected.get_base_model().classifier.modules_to_save["default"].weight.mul_(3)
    expected.save_pretrained(str(tmp_path / "head"))
    model = bert()
    import_peft(model, tmp_path / "head")
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-5)
    case = CASES["embedding"]
    table = stock(case.make, tmp_path / "table", target_modules=["table", "mix"])
    model = case.make().eval()
    import_peft(model, tmp_path / "table")
    torch.testing.assert_close(case.out(model), case.out(table), rtol=1e-5, atol=1e-5)


def test_a_table_saved_along_has_to_be_the_models(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def untied() -> nn.Module:
        model = gpt2()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        return model

    expected = stock(untied, tmp_path, target_modules=["wte"])
    expected.save_pretrained(str(tmp_path), save_embedding_layers=True)
    assert any("wte.base_layer.weight" in name for name in load_file(tmp_path / WEIGHTS))
    model = untied()
    import_peft(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-5)
    other = untied()
    with torch.no_grad():
        other.transformer.wte.weight[0, 0] += 1
    with pytest.raises(AdapterError, match=r"wte\.base_layer\.weight' .* is not the model's own"):
        import_peft(other, tmp_path)
    assert not layers(other)


@pytest.mark.parametrize("scaling", ["matched", "paper"])
def test_an_export_comes_back_as_it_was(scaling: str, tmp_path: Path) -> None:
    config = AdapterConfig(
        r=16, scaling=scaling, lora_alpha=9, modules_to_save=["classifier"], lora_dropout=0.1
    )
    model = bert()
    plan = attached(model, config)
    export_peft(model, tmp_path / "peft", compact=True)
    back = bert()
    assert import_peft(back, tmp_path / "peft") == plan
    assert same(back.state_dict(), model.state_dict())
    for name, layer in layers(back).items():
        assert layer.adapter("default").scale == layers(model)[name].adapter("default").scale
    save_adapter(back, tmp_path / "own")
    again = bert()
    assert load_adapter(again, tmp_path / "own") == plan
    assert torch.equal(logits(again), logits(model))


def test_an_export_of_masks_without_recipes_comes_back_too(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.rand(n, 8, generator=generator) < 0.4).numpy() for n in (64, 32)]
    plan = MaskPlan.from_masks({"0": (masks[0], masks[1])}, rng=0)
    model = mlp()
    attach(model, plan)
    randomise(model)
    export_peft(model, tmp_path, compact=True)
    back = mlp()
    assert import_peft(back, tmp_path) == plan
    assert same(back.state_dict(), model.state_dict())


def test_an_export_trained_on_in_peft_comes_in_dense(tmp_path: Path) -> None:
    model = bert()
    attached(model, AdapterConfig(r=16))
    export_peft(model, tmp_path)

    def fill(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor += 0.01

    rewrite(tmp_path, fill)
    expected = peft.PeftModel.from_pretrained(bert(), str(tmp_path)).eval()
    back = bert()
    with pytest.warns(UserWarning, match="import is dense: .* entries off the plan's masks"):
        plan = import_peft(back, tmp_path)
    assert plan.left_degree == 16
    torch.testing.assert_close(logits(back), logits(expected), rtol=1e-5, atol=1e-5)


def test_a_damaged_plan_in_the_file_is_not_used(tmp_path: Path) -> None:
    model = mlp()
    attached(model, AdapterConfig(r=16))
    export_peft(model, tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    metadata["expandermask_plan"] = metadata["expandermask_plan"].replace('"seed": ', '"seed": 1')
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS, metadata)
    with pytest.warns(UserWarning, match="import is dense"):
        assert import_peft(mlp(), tmp_path).left_degree == 16


@pytest.mark.parametrize("compact", [False, True])
def test_an_edit_of_the_config_changes_the_update(compact: bool, tmp_path: Path) -> None:
    model, back = mlp(), mlp()
    plan = attached(model, AdapterConfig(r=16))
    export_peft(model, tmp_path, compact=compact)
    alpha = json.loads((tmp_path / CONFIG).read_text())["lora_alpha"]
    edit(tmp_path, lora_alpha=3 * alpha)
    assert import_peft(back, tmp_path) == plan
    for place, delta in deltas(model).items():
        torch.testing.assert_close(deltas(back)[place], 3 * delta)


def test_a_given_plan_has_to_keep_everything(tmp_path: Path) -> None:
    model = mlp()
    plan = attached(model, AdapterConfig(r=16))
    export_peft(model, tmp_path)
    rewrite(tmp_path, lambda tensors: None)
    assert import_peft(mlp(), tmp_path, plan=plan) is plan
    other = MaskPlan.for_shapes({n: p.shape for n, p in plan.items()}, r=16, rng=99)
    a, b = (
        sum(int(((p_.mask() == 1) & (q_.mask() == 0)).sum()) for p_, q_ in pairs)
        for pairs in (
            [(plan[n].a, other[n].a) for n in plan],
            [(plan[n].b, other[n].b) for n in plan],
        )
    )
    target = mlp()
    with pytest.raises(AdapterError, match=f"^{a + b} entries off the plan's masks .* 2 modules"):
        import_peft(target, tmp_path, plan=other)
    assert not layers(target)


def test_entries_off_the_masks_are_counted_and_measured(tmp_path: Path) -> None:
    model = mlp()
    plan = attached(model, AdapterConfig(r=16))
    export_peft(model, tmp_path)
    row, column = (plan["2"].b.to_torch() == 0).nonzero()[5].tolist()

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.2.lora_B.weight"][row, column] = -2.5

    rewrite(tmp_path, spoil)
    words = r"^1 entries off the plan's masks are not zero, the largest 2\.5, in 1 .*'2'"
    with pytest.raises(AdapterError, match=words):
        import_peft(mlp(), tmp_path, plan=plan)


def test_an_imported_adapter_goes_beside_others_under_its_name(tmp_path: Path) -> None:
    expected = logits(stock(bert, tmp_path))
    model = bert()
    attach(model, AdapterConfig(r=16), rng=0)
    before = logits(model)
    import_peft(model, tmp_path, name="theirs")
    assert torch.equal(logits(model), before)
    set_adapters(model, "theirs")
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert list(adapter_names(model)) == ["default", "theirs"]
    with pytest.raises(AdapterError, match="already has an adapter 'theirs'"):
        import_peft(model, tmp_path, name="theirs")


@pytest.mark.parametrize("beside", [False, True])
def test_an_import_that_fails_half_way_is_taken_back(
    beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(mlp, tmp_path)
    model = mlp()
    if beside:
        attached(model)
    before = dict(model.state_dict())

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("expandermask.peft._import.gather_values", fail)
    with pytest.raises(MemoryError):
        import_peft(model, tmp_path, name="lora")
    assert same(model.state_dict(), before)
    if beside:
        assert adapter_names(model) == ("default",)
    else:
        assert not is_attached(model)


def test_a_dense_import_trains_as_the_lora_it_was(tmp_path: Path) -> None:
    theirs = stock(bert, tmp_path)
    theirs.set_adapter("default")
    model = bert()
    import_peft(model, tmp_path)
    for one in (model, theirs):
        one(tokens()).logits.pow(2).mean().backward()
    for name, layer in layers(model).items():
        factors = theirs.get_base_model().get_submodule(name)
        adapter = layer.adapter("default")
        for values, side in ((adapter.lora_A.grad.t(), "A"), (adapter.lora_B.grad, "B")):
            dense = getattr(factors, f"lora_{side}")["default"].weight.grad
            torch.testing.assert_close(values, dense, rtol=1e-4, atol=1e-6)


A, B = "base_model.model.0.lora_A.weight", "base_model.model.0.lora_B.weight"

CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
    ({"bias": "lora_only"}, "bias='lora_only'"),
    ({"bias": "all"}, "bias='all'"),
    ({"use_dora": True}, "use_dora=True"),
    ({"target_parameters": ["experts.gate_up_proj"]}, "3-D weights of experts"),
    ({"rank_pattern": {"0": 4}}, r"must be \(r, k\) and \(d, r\) with r=4"),
    ({"rank_pattern": {"0": 0}}, "r and rank_pattern must be integers >= 1"),
    ({"rank_pattern": {"0": True}}, "r and rank_pattern must be integers >= 1"),
    ({"rank_pattern": ["0"]}, "r and rank_pattern must be integers >= 1"),
    ({"rank_pattern": {"(": 4}}, r"rank_pattern '\('"),
    ({"alpha_pattern": {"(": 4}}, r"alpha_pattern '\('"),
    ({"alpha_pattern": [1]}, "must be positive numbers"),
    ({"lora_bias": True}, "lora_bias=True"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    ({"something_new": 1}, "something_new=1"),
    ({"r": 16}, r"must be \(r, k\) and \(d, r\) with r=16"),
    ({"r": "8"}, "r and rank_pattern must be integers"),
    ({"lora_alpha": 0}, "must be positive numbers"),
    ({"lora_alpha": True}, "must be positive numbers"),
    ({"lora_alpha": 10**400}, "must be positive numbers"),
    ({"lora_dropout": "x"}, "lora_dropout must be a real number"),
    ({"lora_dropout": [0.1]}, "lora_dropout must be a real number"),
    ({"lora_dropout": 5}, "lora_dropout must lie in"),
    ({"lora_dropout": 10**400}, "lora_dropout must be below 1e308"),
    ({"lora_dropout": True}, "lora_dropout must be a real number"),
    ({"modules_to_save": [""]}, "must hold non-empty strings"),
    ({"modules_to_save": "head"}, "must be a list or tuple of module names"),
]

TENSORS: list[tuple[Callable[[dict[str, torch.Tensor]], Any], type, str]] = [
    (lambda t: t.pop(A), FileFormatError, "has only lora_B"),
    (lambda t: t.clear(), FileFormatError, "holds no lora_A"),
    (lambda t: t.update({"x": torch.ones(1)}), FileFormatError, "not named as PEFT names"),
    (lambda t: t.update({A: t[A].long()}), FileFormatError, "floating-point"),
    (
        lambda t: t.update({A: t[A].to(torch.float8_e4m3fn), B: t[B].to(torch.float8_e4m3fn)}),
        FileFormatError,
        "16 bits or more",
    ),
    (lambda t: t.update({A: t[A].double()}), AdapterError, "would be rounded to torch.float32"),
    (lambda t: t.update({A: t[A][:, :63].clone()}), AdapterError, r"\(32, 63\) weight"),
    (lambda t: t.update({B: t[B][:, :4].clone()}), FileFormatError, r"lora_B \[32, 4\]"),
    (
        lambda t: t.update({"base_model.model.1.weight": torch.ones(1)}),
        AdapterError,
        r"'1\.weight' of the file is in no module to save",
    ),
    (
        lambda t: t.update({A.replace("0", "9"): t.pop(A), B.replace("0", "9"): t.pop(B)}),
        AdapterError,
        "adapts '9'",
    ),
]


@pytest.mark.parametrize(("change", "words"), CONFIGS)
def test_what_is_no_plain_lora_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    stock(mlp, tmp_path)
    edit(tmp_path, **change)
    refuses(tmp_path, FileFormatError, words)


@pytest.mark.parametrize(("change", "error", "words"), TENSORS)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, torch.Tensor]], Any],
    error: type[Exception],
    words: str,
    tmp_path: Path,
) -> None:
    stock(mlp, tmp_path)
    rewrite(tmp_path, change)
    refuses(tmp_path, error, words)


def refuses(folder: Path, error: type[Exception], words: str, **arguments: Any) -> None:
    """Importing raises, and the model is as it was."""
    model = mlp()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=words):
        import_peft(model, folder, **arguments)
    assert same(model.state_dict(), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_pattern_that_would_take_for_ever_is_given_up(tmp_path: Path) -> None:
    stock(bert, tmp_path)
    edit(tmp_path, alpha_pattern={r"(.|..)*[A-Z]": 4})
    with pytest.raises(FileFormatError, match=r"alpha_pattern .*timed out"):
        import_peft(bert(), tmp_path)


def test_pickles_missing_and_cut_files_are_refused(tmp_path: Path) -> None:
    refuses(tmp_path, FileFormatError, "cannot read .*adapter_config.json")
    model = stock(mlp, tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        (tmp_path / WEIGHTS).write_bytes(whole[:size])
        refuses(tmp_path, FileFormatError, "safetensors|truncated")
    (tmp_path / WEIGHTS).unlink()
    refuses(tmp_path, FileFormatError, "cannot read .*adapter_model.safetensors")
    model.save_pretrained(str(tmp_path), safe_serialization=False)
    refuses(tmp_path, FileFormatError, "a pickle, which is not opened")
    (tmp_path / CONFIG).write_text("[]")
    refuses(tmp_path, FileFormatError, "must be a JSON object")


def test_plans_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    stock(mlp, tmp_path)
    shapes = {"0": (32, 64), "2": (64, 32)}
    wider = MaskPlan.for_shapes(shapes, r=16, rng=0)
    refuses(tmp_path, AdapterError, "entries off the plan's masks are not zero", plan=wider)
    narrower = MaskPlan.for_shapes(shapes, r=4, rng=0)
    refuses(tmp_path, AdapterError, "the plan has r=4, and '0' in the file r=8", plan=narrower)
    short = MaskPlan.for_shapes({"0": (32, 64)}, r=8, rng=0)
    refuses(tmp_path, AdapterError, "'2' is only in the file", plan=short)
    turned = MaskPlan.for_shapes({"0": (64, 32), "2": (64, 32)}, r=8, rng=0)
    refuses(tmp_path, AdapterError, r"file's factors for \(32, 64\)", plan=turned)
    refuses(tmp_path, InvalidInputError, "plan must be a MaskPlan", plan=shapes)


def test_a_lora_of_rank_one_comes_in(tmp_path: Path) -> None:
    theirs = stock(mlp, tmp_path, r=1)
    model = mlp()
    plan = import_peft(model, tmp_path)
    assert (plan.r, plan.left_degree, plan.num_values) == (1, None, 192)
    x = torch.randn(5, 64)
    torch.testing.assert_close(model.eval()(x), theirs(x))


def test_a_missing_head_is_refused(tmp_path: Path) -> None:
    stock(bert, tmp_path, modules_to_save=["classifier"])
    rewrite(tmp_path, lambda t: t.pop("base_model.model.classifier.bias"))
    with pytest.raises(AdapterError, match=r"'classifier\.bias' .* only in the model"):
        import_peft(bert(), tmp_path)
    stock(bert, tmp_path, modules_to_save=["classifier"])


# -- what PEFT writes ------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_export_comes_back(kind: str, compact: bool, tmp_path: Path) -> None:
    make, base = MODELS[kind]
    model, back = make(), base()
    export_peft(model, tmp_path, compact=compact)
    plan = import_peft(back, tmp_path)
    own = attachment(model).adapters["default"]
    assert plan == own.plan
    assert attachment(back).adapters["default"].config == own.config
    for place, layer in layers(back).items():
        adapter, before = layer.adapter("default"), layers(model)[place].adapter("default")
        assert adapter.scale == before.scale
        used = plan[place].used_ranks  # at others one mask keeps nothing, so values do nothing
        (a, b), (a_before, b_before) = adapter.factors(), before.factors()
        assert torch.equal(a[used], a_before[used])
        relative = (b - b_before)[:, used].abs() / b_before[:, used].abs().clamp(min=1e-30)
        assert relative.max() <= (0 if compact else 2**-23)


@pytest.mark.parametrize("kind", MODELS)
def test_an_export_of_an_import_is_the_same_file(kind: str, tmp_path: Path) -> None:
    make, base = MODELS[kind]
    export_peft(make(), tmp_path / "0")
    back = base()
    import_peft(back, tmp_path / "0")
    export_peft(back, tmp_path / "1")
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_a_scale_that_is_a_power_of_two_gives_back_every_bit(tmp_path: Path) -> None:
    model = bert()
    attached(model, AdapterConfig(r=32, lora_alpha=16))
    export_peft(model, tmp_path)
    back = bert()
    import_peft(back, tmp_path)
    assert layers(back)["bert.pooler.dense"].adapter("default").scale == 2
    assert same(back.state_dict(), model.state_dict())


@pytest.mark.parametrize("rslora", [False, True])
def test_padding_of_foreign_files_is_left_out(rslora: bool, tmp_path: Path) -> None:
    theirs, x = stock(mlp, tmp_path, use_rslora=rslora), torch.randn(5, 64)

    def close(tensors: dict[str, torch.Tensor]) -> None:
        tensors[A][5:] = 0
        tensors[B][:, 5:] = 0
        tensors[A.replace("0", "2")][2] = 0  # in the middle, and only of A
        tensors[B.replace("0", "2")][:, 7] = 0

    rewrite(tmp_path, close)
    theirs = peft.PeftModel.from_pretrained(mlp(), str(tmp_path)).eval()
    model = mlp().eval()
    plan = import_peft(model, tmp_path)
    assert {name: len(pair.used_ranks) for name, pair in plan.items()} == {"0": 5, "2": 8}
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_a_file_that_is_all_padding_does_nothing(tmp_path: Path) -> None:
    stock(mlp, tmp_path)
    rewrite(tmp_path, lambda tensors: [tensor.zero_() for tensor in tensors.values()])
    model, x = mlp().eval(), torch.randn(5, 64)
    expected = model(x)
    assert import_peft(model, tmp_path).r == 1
    assert torch.equal(model(x), expected)


def test_a_plan_whose_ranks_lie_in_their_own_places_is_taken(tmp_path: Path) -> None:
    stock(mlp, tmp_path)
    kept = torch.tensor([0, 1, 0, 1, 1, 0, 0, 0]).bool()

    def close(tensors: dict[str, torch.Tensor]) -> None:
        for key, tensor in tensors.items():
            tensor[(~kept,) if "lora_A" in key else (slice(None), ~kept)] = 0

    rewrite(tmp_path, close)
    ones = {n: (kept.expand(k, 8), kept.expand(d, 8)) for n, (d, k) in SHAPES.items()}
    plan = MaskPlan.from_masks(ones, rng=0)
    model, x = mlp().eval(), torch.randn(5, 64)
    assert import_peft(model, tmp_path, plan=plan) is plan
    expected = peft.PeftModel.from_pretrained(mlp(), str(tmp_path)).eval()
    torch.testing.assert_close(model(x), expected(x), rtol=1e-5, atol=1e-5)


CLASSIFIERS = ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("task", CLASSIFIERS)
@pytest.mark.parametrize("head", ["classifier", "score", "qa_outputs"])
def test_heads_that_peft_lists_and_the_model_has_not_are_passed_over(
    task: str, head: str, tmp_path: Path
) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(OrderedDict([("body", nn.Linear(64, 64)), (head, nn.Linear(64, 3))]))

    names = ["qa_outputs"] if task == "QUESTION_ANS" else ["classifier", "score"]
    config = peft.LoraConfig(
        r=8, target_modules=["body"], init_lora_weights=False, modules_to_save=names
    )
    theirs = peft.get_peft_model(make(), config)
    if head in names:
        with torch.no_grad():
            getattr(theirs.get_base_model(), head).modules_to_save["default"].weight.mul_(3)
    theirs.save_pretrained(str(tmp_path))
    model, x = make(), torch.randn(5, 64)
    import_peft(model, tmp_path)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert tuple(attachment(model).adapters["default"].heads) == ((head,) if head in names else ())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_classification_folder_of_peft_comes_in(tmp_path: Path) -> None:
    expected = logits(stock(bert, tmp_path, task_type="SEQ_CLS"))
    assert json.loads((tmp_path / CONFIG).read_text())["modules_to_save"] == ["classifier", "score"]
    model = bert()
    import_peft(model, tmp_path)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert tuple(attachment(model).adapters["default"].heads) == ("classifier",)


def test_a_tensor_of_a_head_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    stock(bert, tmp_path, task_type="SEQ_CLS")
    rewrite(tmp_path, lambda t: t.update({"base_model.model.score.weight": torch.ones(3, 64)}))
    model = bert()
    with pytest.raises(AdapterError, match=r"'score\.weight' .* in no module to save"):
        import_peft(model, tmp_path)
    assert not is_attached(model)


def test_an_export_onto_a_model_with_another_head_brings_its_head(tmp_path: Path) -> None:
    model = bert()
    attached(model)
    export_peft(model, tmp_path)
    other = bert()
    with torch.no_grad():
        other.classifier.weight.add_(1)
    import_peft(other, tmp_path)
    torch.testing.assert_close(logits(other), logits(model), rtol=1e-5, atol=1e-5)
    assert tuple(attachment(other).adapters["default"].heads) == ("classifier",)


def untied(rows: int = 64) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    if rows != 64:
        torch.manual_seed(1)
        model.resize_token_embeddings(rows)
    return model


def embeddings_saved(make: Callable[[], nn.Module], folder: Path, *, change: bool) -> nn.Module:
    """A LoRA whose folder holds the embeddings as well, other ones than the model's if asked."""
    model = make()
    if change:
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.5)
    config = peft.LoraConfig(r=8, target_modules=["q_proj", "c_attn"], init_lora_weights=False)
    theirs = peft.get_peft_model(model, config).eval()
    theirs.save_pretrained(str(folder), save_embedding_layers=True)
    return theirs


def ids() -> torch.Tensor:
    return torch.arange(60).reshape(4, 15)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_embeddings_as_the_models_need_no_module_to_save(tmp_path: Path) -> None:
    theirs = embeddings_saved(untied, tmp_path, change=False)
    model = untied()
    import_peft(model, tmp_path)
    torch.testing.assert_close(model(ids()).logits, theirs(ids()).logits)
    assert tuple(attachment(model).adapters["default"].heads) == ()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rows", [64, 70])
def test_trained_embeddings_become_modules_to_save(rows: int, tmp_path: Path) -> None:
    theirs = embeddings_saved(lambda: untied(rows), tmp_path, change=True)
    if rows != 64:
        small = untied()
        with pytest.raises(AdapterError, match=rf"resize_token_embeddings\({rows}\)"):
            import_peft(small, tmp_path)
        assert not is_attached(small)
    model = untied(rows)
    import_peft(model, tmp_path)
    torch.testing.assert_close(model(ids()).logits, theirs(ids()).logits)
    assert tuple(attachment(model).adapters["default"].heads) == ("model.embed_tokens",)
    save_adapter(model, tmp_path / "own")
    again = untied(rows)
    load_adapter(again, tmp_path / "own")
    assert torch.equal(again(ids()).logits, model(ids()).logits)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trained_embeddings_that_are_tied_are_not_lost(tmp_path: Path) -> None:
    theirs = embeddings_saved(gpt2, tmp_path, change=True)
    model = gpt2()
    with pytest.raises(AdapterError, match=r"because it is tied to '.*'; copy the tensor"):
        import_peft(model, tmp_path)
    assert not is_attached(model)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(1.5)
    import_peft(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(theirs), rtol=1e-4, atol=1e-4)


def saved_head(folder: Path, kind: str, make: Callable[[], nn.Module] = bert) -> nn.Module:
    """A trained float32 head in either kind of folder; the model that was saved."""
    model = make()
    plan = attached(model, AdapterConfig(r=16, modules_to_save=["classifier"]))
    assert plan
    save = save_adapter if kind == "own" else export_peft
    save(model, folder)
    return model


LOADERS = {"own": load_adapter, "peft": import_peft}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_head_of_another_dtype_needs_a_choice(kind: str, tmp_path: Path) -> None:
    saved_head(tmp_path, kind)
    model = bert().bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    words = r"float32 in the file and .*bfloat16 in the model; pass dtype=\"file\""
    with pytest.raises(AdapterError, match=words):
        LOADERS[kind](model, tmp_path)
    with pytest.raises(InvalidInputError, match="dtype must be"):
        LOADERS[kind](model, tmp_path, dtype="float32")
    assert same(model.state_dict(), before)
    assert not is_attached(model)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("dtype", ["file", "model"])
def test_a_head_keeps_the_dtype_that_was_chosen(kind: str, dtype: str, tmp_path: Path) -> None:
    source = saved_head(tmp_path, kind)
    model = bert().bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    LOADERS[kind](model, tmp_path, dtype=dtype)
    wanted = source.classifier.weight
    expected = wanted if dtype == "file" else wanted.bfloat16()
    assert model.classifier.weight.dtype == expected.dtype
    assert torch.equal(model.classifier.weight, expected)
    if dtype == "model":
        assert logits(model).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        found = logits(model).float()
    torch.testing.assert_close(found, logits(source), rtol=0.1, atol=0.5)
    with disable_adapters(model):
        assert model.classifier.weight.dtype == torch.bfloat16
    assert torch.equal(model.classifier.weight, expected)
    LOADERS["own"](model, saved(model, tmp_path / "again"))
    detach(model)
    assert same(model.state_dict(), before)


def saved(model: nn.Module, folder: Path) -> Path:
    save_adapter(model, folder)
    return folder
