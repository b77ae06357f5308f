"""export_peft: stock PEFT loads the folder and computes the same logits."""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file
from torch import nn

from expandermask import MaskPlan
from expandermask.adapters import (
    AdapterConfig,
    attach,
    export_peft,
    import_peft,
    merge,
    save_adapter,
)
from expandermask.adapters.attachment import attachment, masked_layers
from expandermask.allocation import prune
from expandermask.errors import AdapterError
from tests.adapters.models import (
    ENCODER,
    attached,
    bert,
    gpt2,
    layers,
    logits,
    mlp,
    randomise,
    tokens,
)
from tests.adapters.readers import MODELS, READERS, conv1d, deltas, pruned, updates


def mixed() -> nn.Module:
    """A GPT-2 with one Conv1D exchanged for an nn.Linear of the same shape."""
    model = gpt2()
    torch.manual_seed(1)
    model.transformer.h[1].attn.c_proj = nn.Linear(64, 64).eval()
    return model


CASES = [
    (bert, AdapterConfig(r=16, target_modules=ENCODER, modules_to_save=["classifier"])),
    (bert, AdapterConfig(r=32, target_modules=["query", "value"], scaling="paper")),
    (gpt2, AdapterConfig(r=16)),
    (mixed, AdapterConfig(r=16)),
]


@pytest.mark.parametrize(("make", "config"), CASES)
def test_stock_peft_gives_the_same_logits(
    make: Callable[[], nn.Module], config: AdapterConfig, tmp_path: Path
) -> None:
    model = make()
    plan = attached(model, config)
    export_peft(model, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out" if make is mixed else "gradient_check")
        warnings.filterwarnings("error", "Found missing adapter keys|.*unexpected")
        loaded = peft.PeftModel.from_pretrained(make(), str(tmp_path)).eval()
    assert (logits(make()) - logits(model)).abs().max() > 0.1
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    found = [
        name.removeprefix("base_model.model.")
        for name, module in loaded.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    ]
    assert sorted(found) == sorted(plan)


def test_exported_factors_are_dense_with_zeros_off_the_masks(tmp_path: Path) -> None:
    model = bert()
    plan = attached(model)
    export_peft(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors = {key: tensor for key, tensor in tensors.items() if "lora" in key}
    for name, pair in plan.items():
        a = tensors[f"base_model.model.{name}.lora_A.weight"]
        b = tensors[f"base_model.model.{name}.lora_B.weight"]
        assert torch.equal((a.T != 0).byte(), pair.a.to_torch())
        assert torch.equal((b != 0).byte(), pair.b.to_torch())
    assert len(tensors) == 2 * len(plan)


def test_names_that_end_alike_are_not_hit(tmp_path: Path) -> None:
    def twins() -> nn.Module:
        return nn.ModuleDict(
            {"fc": nn.Linear(64, 64), "inner": nn.ModuleDict({"fc": nn.Linear(64, 64)})}
        )

    model = twins()
    attached(model, AdapterConfig(r=16, target_modules="fc"))
    assert len(layers(model)) == 1
    export_peft(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(twins(), str(tmp_path))
    hit = [n for n, m in loaded.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    assert hit == ["base_model.model.fc"]


def test_the_config_holds_only_what_every_peft_knows(tmp_path: Path) -> None:
    model = bert()
    attached(model, AdapterConfig(r=16, lora_alpha=8, lora_dropout=0.25))
    for compact, scale in ((False, 1), (True, AdapterConfig(r=16, lora_alpha=8).scale)):
        export_peft(model, tmp_path, compact=compact)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert set(config) <= set(peft.LoraConfig().to_dict())
        assert config["lora_alpha"] / config["r"] == scale
        assert config["lora_dropout"] == 0.25


def test_a_merged_model_exports_the_same_adapter(tmp_path: Path) -> None:
    model = bert()
    attached(model)
    export_peft(model, tmp_path / "plain")
    merge(model)
    export_peft(model, tmp_path / "merged")
    name = "adapter_model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()


def test_saving_refuses_to_write_over_an_export(tmp_path: Path) -> None:
    model = mlp()
    attached(model)
    export_peft(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(AdapterError, match="another kind of checkpoint"):
        save_adapter(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    export_peft(model, tmp_path)


def test_refuses_to_write_over_a_saved_adapter(tmp_path: Path) -> None:
    model = mlp()
    attached(model)
    save_adapter(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(AdapterError, match="an adapter of save_adapter"):
        export_peft(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(AdapterError, match="is a file"):
        export_peft(model, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="no adapters attached"):
        export_peft(mlp(), tmp_path)
    export_peft(model, tmp_path / "peft")
    export_peft(model, tmp_path / "peft")


# -- every reader computes the same ----------------------------------------------------------------


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        if any(isinstance(module, nn.Embedding) for module in model.modules()):
            found = model(tokens())
        else:
            found = model(torch.randn(5, 64, generator=torch.Generator().manual_seed(1)))
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_computes_the_adapters_update(kind: str, reader: str, tmp_path: Path) -> None:
    model = MODELS[kind][0]()
    export_peft(model, tmp_path)
    found, expected = updates(tmp_path, READERS[reader]), deltas(model)
    assert found.keys() == expected.keys()
    for place, delta in expected.items():
        torch.testing.assert_close(found[place].float(), delta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("compact", [False, True])
def test_stock_peft_computes_the_same_with_both_forms(
    kind: str, compact: bool, tmp_path: Path
) -> None:
    make, base = MODELS[kind]
    model = make()
    export_peft(model, tmp_path, compact=compact)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out|gradient_check")
        loaded = peft.PeftModel.from_pretrained(base(), str(tmp_path)).eval()
    assert (outputs(base()) - outputs(model)).abs().max() > 0.01
    torch.testing.assert_close(outputs(loaded), outputs(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_the_default_form_has_one_rank_and_a_factor_of_one(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind][0]()
    export_peft(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    ranks = {len(tensor) for key, tensor in tensors.items() if re.search("lora_.*A", key)}
    assert ranks == {config["r"]}
    assert type(config["lora_alpha"]) is int
    assert config["lora_alpha"] == config["r"]
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["use_rslora"] is False
    assert isinstance(config["target_modules"], list)


def test_the_scale_is_multiplied_in_before_rounding(tmp_path: Path) -> None:
    model = mlp(dtype=torch.bfloat16)
    attached(model, AdapterConfig(r=16))
    model.to(torch.bfloat16)
    own = masked_layers(model)["0"].adapter("default")
    own.set_rank_gate(torch.full((16,), 1.01))
    export_peft(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    dense = torch.zeros(32, 16)
    for row, ranks in enumerate(own.index_b.t().tolist()):
        for column, value in zip(ranks, own.lora_B[row].tolist(), strict=True):
            dense[row, column] = value
    expected = (dense * torch.tensor(1.01) * own.scale).bfloat16()
    assert torch.equal(tensors["base_model.model.0.lora_B.weight"], expected)
    rounded_twice = ((dense.bfloat16() * torch.tensor(1.01).bfloat16()) * own.scale).bfloat16()
    assert not torch.equal(rounded_twice, expected)


def test_modules_without_ranks_are_left_out(tmp_path: Path) -> None:
    model = pruned()
    export_peft(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    places = {re.sub(r"base_model\.model\.|\.lora_.*", "", k) for k in tensors_of(tmp_path)}
    assert places == set(masked_layers(model))
    assert len(places) < len(masked_layers(conv1d()))
    assert config["r"] == 16


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


# -- hot swap and several adapters in one batch ----------------------------------------------------


def several(folder: Path, count: int) -> list[nn.Module]:
    """Adapters of unequal ranks on one base, exported."""
    models = []
    for number in range(count):
        model = gpt2()
        attach(model, AdapterConfig(r=8 if number % 2 else 16, lora_alpha=4 + number), rng=number)
        randomise(model, seed=number)
        for place, layer in masked_layers(model).items():
            gate = torch.ones(layer.adapter("default").r)
            gate[: (len(place) + number) % 5] = 0
            layer.adapter("default").set_rank_gate(gate)
        prune(model)
        export_peft(model, folder / str(number))
        models.append(model)
    return models


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore::FutureWarning")
def test_stock_peft_swaps_exports_of_other_ranks_in_place(tmp_path: Path) -> None:
    from peft.utils.hotswap import hotswap_adapter

    models = several(tmp_path, 4)
    loaded = peft.PeftModel.from_pretrained(gpt2(), str(tmp_path / "0")).eval()
    for number in (1, 2, 3, 0):
        hotswap_adapter(loaded, str(tmp_path / str(number)), "default", torch_device="cpu")
        expected = logits(models[number])
        torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore::FutureWarning")
def test_stock_peft_runs_eight_exports_in_one_batch(tmp_path: Path) -> None:
    models = several(tmp_path, 8)
    loaded = peft.PeftModel.from_pretrained(gpt2(), str(tmp_path / "0"), adapter_name="0").eval()
    for number in range(1, 8):
        loaded.load_adapter(str(tmp_path / str(number)), adapter_name=str(number))
    batch = tokens(8)
    with torch.no_grad():
        found = loaded(batch, adapter_names=[str(number) for number in range(8)]).logits
        expected = [model(batch[i : i + 1]).logits[0] for i, model in enumerate(models)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


# -- names and classes -----------------------------------------------------------------------------


def llama(**changes: int) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        vocab_size=64, num_attention_heads=4, pad_token_id=0, **(sizes | changes)
    )
    return transformers.LlamaForCausalLM(config).eval()


TARGETS = [
    (llama, ["q_proj", "v_proj"], ["q_proj", "v_proj"]),
    (lambda: llama(num_hidden_layers=1), "all-linear", None),
    (llama, r".*\.1\..*v_proj", ["model.layers.1.self_attn.v_proj"]),
    (llama, r".*0.*[qk]_proj|.*1.*q_proj", ["q_proj", "model.layers.0.self_attn.k_proj"]),
    (bert, r"bert\.encoder.*attention\.output\.dense", ["attention.output.dense"]),
    (
        bert,
        r".*[01]\.output\.dense|.*query",
        ["query", "bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"],
    ),
    (gpt2, ["c_attn", "mlp.c_proj"], ["c_attn", "mlp.c_proj"]),
    (mlp, ["0"], ["0"]),
]


@pytest.mark.parametrize(("make", "targets", "expected"), TARGETS)
def test_target_modules_are_the_shortest_endings_that_peft_takes_for_the_same_modules(
    make: Callable[[], nn.Module],
    targets: str | list[str],
    expected: list[str] | None,
    tmp_path: Path,
) -> None:
    model = make()
    plan = attached(model, AdapterConfig(r=8, target_modules=targets))
    export_peft(model, tmp_path)
    config = peft.LoraConfig.from_pretrained(str(tmp_path))
    written = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert isinstance(written, list)
    if expected is not None:
        assert sorted(written) == sorted(expected)
    names = [name for name, _ in make().named_modules()]
    assert [n for n in names if n and check_target_module_exists(config, n)] == list(plan)


def test_an_ending_that_a_module_of_another_kind_has_is_not_used(tmp_path: Path) -> None:
    def mixed_kinds() -> nn.Module:
        torch.manual_seed(0)
        inner = nn.ModuleDict({"proj": nn.LayerNorm(64), "side": nn.Linear(64, 64)})
        return nn.ModuleDict({"outer": nn.ModuleDict({"proj": nn.Linear(64, 64)}), "inner": inner})

    model = mixed_kinds()
    attached(model, AdapterConfig(r=16, target_modules=["outer.proj"]))
    export_peft(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["outer.proj"]
    peft.PeftModel.from_pretrained(mixed_kinds(), str(tmp_path))


def small(kind: str) -> nn.Module:
    """A small model of one of the classes that PEFT has a task type for."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 90, "hidden_size": 64, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 128}
    sizes["num_labels"] = 2 if "QuestionAnswering" in kind else 3
    t5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4}
    distil = {"dim": 64, "n_layers": 1, "n_heads": 4, "hidden_dim": 128}
    configs = {
        "T5": lambda: transformers.T5Config(vocab_size=90, decoder_start_token_id=0, **t5),
        "DistilBert": lambda: transformers.DistilBertConfig(vocab_size=90, num_labels=3, **distil),
        "Bert": lambda: transformers.BertConfig(**sizes),
        "Llama": lambda: transformers.LlamaConfig(pad_token_id=0, **sizes),
        "Roberta": lambda: transformers.RobertaConfig(**sizes),
        "ViT": lambda: transformers.ViTConfig(image_size=16, patch_size=8, **sizes),
    }
    config = next(make() for prefix, make in configs.items() if kind.startswith(prefix))
    return getattr(transformers, kind)(config).eval()


TASKS = [
    ("LlamaForCausalLM", peft.AutoPeftModelForCausalLM),
    ("T5ForConditionalGeneration", peft.AutoPeftModelForSeq2SeqLM),
    ("BertForSequenceClassification", peft.AutoPeftModelForSequenceClassification),
    ("DistilBertForSequenceClassification", peft.AutoPeftModelForSequenceClassification),
    ("RobertaForSequenceClassification", peft.AutoPeftModelForSequenceClassification),
    ("LlamaForSequenceClassification", peft.AutoPeftModelForSequenceClassification),
    ("BertForTokenClassification", peft.AutoPeftModelForTokenClassification),
    ("BertForQuestionAnswering", peft.AutoPeftModelForQuestionAnswering),
    ("BertModel", peft.AutoPeftModelForFeatureExtraction),
    ("BertForMaskedLM", peft.AutoPeftModel),
    ("ViTForImageClassification", peft.AutoPeftModel),
    ("ViTModel", peft.AutoPeftModel),
]


def answer(model: nn.Module, kind: str) -> torch.Tensor:
    if kind.startswith("ViT"):
        inputs = {"pixel_values": torch.ones(2, 3, 16, 16) / 3}
    else:
        inputs = {"input_ids": tokens(2, 9) + 1}
    if kind.startswith("T5"):
        inputs["decoder_input_ids"] = tokens(2, 5)
    with torch.no_grad():
        return model(**inputs)[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize(("kind", "auto"), TASKS)
def test_the_auto_class_of_the_model_loads_the_folder(
    kind: str, auto: type, trained_head: bool, tmp_path: Path
) -> None:
    small(kind).save_pretrained(tmp_path / "base")
    model = getattr(transformers, kind).from_pretrained(tmp_path / "base").eval()
    heads = ("classifier", "score", "qa_outputs")
    saved = [name for name in heads if trained_head and hasattr(model, name)]
    attached(model, AdapterConfig(r=8, target_modules=TASK_TARGETS, modules_to_save=saved))
    export_peft(model, tmp_path / "lora")
    expected = answer(model, kind)
    for loads in (auto, peft.AutoPeftModel):
        loaded = loads.from_pretrained(str(tmp_path / "lora")).eval()
        torch.testing.assert_close(answer(loaded, kind), expected, rtol=1e-4, atol=1e-4)
    base = getattr(transformers, kind).from_pretrained(tmp_path / "base").eval()
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "lora")).eval()
    torch.testing.assert_close(answer(loaded, kind), expected, rtol=1e-4, atol=1e-4)
    back = getattr(transformers, kind).from_pretrained(tmp_path / "base").eval()
    import_peft(back, tmp_path / "lora")
    torch.testing.assert_close(answer(back, kind), expected, rtol=1e-4, atol=1e-4)
    assert tuple(attachment(back).adapters["default"].heads) == tuple(saved)


TASK_TARGETS = ["query", "value", "q", "v", "q_lin", "v_lin", "q_proj", "v_proj"]


def test_a_head_that_is_adapted_itself_is_not_saved_besides(tmp_path: Path) -> None:
    model = bert()
    plan = attached(model, AdapterConfig(r=3, left_degree=3, target_modules=["classifier"]))
    assert list(plan) == ["classifier"]
    export_peft(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["modules_to_save"] is None
    loaded = peft.PeftModel.from_pretrained(bert(), str(tmp_path)).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)


def test_a_module_to_save_that_peft_would_take_for_a_target_is_refused(tmp_path: Path) -> None:
    model = nn.ModuleDict({"fc": nn.Linear(64, 8), "my_fc": nn.Linear(64, 64)})
    attached(model, AdapterConfig(r=16, target_modules=["my_fc"], modules_to_save=["fc"]))
    with pytest.raises(AdapterError, match="by the end of their names"):
        export_peft(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_peft_is_given_every_module_that_it_takes_for_one_to_save(tmp_path: Path) -> None:
    def heads() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            OrderedDict(body=nn.Linear(64, 64), pre_head=nn.Linear(64, 64), head=nn.Linear(64, 3))
        )

    model = heads()
    attached(model, AdapterConfig(r=16, target_modules=["body"], modules_to_save=["head"]))
    export_peft(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(heads(), str(tmp_path)).eval()
    torch.testing.assert_close(outputs(loaded), outputs(model), rtol=1e-4, atol=1e-4)
    back = heads()
    import_peft(back, tmp_path)
    assert tuple(attachment(back).adapters["default"].heads) == ("head",)
    torch.testing.assert_close(outputs(back), outputs(model), rtol=1e-6, atol=1e-6)


def disjoint(places: dict[str, tuple[int, int]]) -> nn.Module:
    """An MLP whose masks keep all of one rank of A and of one of B in each module."""
    masks = {}
    for (place, (of_a, of_b)), (k, d) in zip(places.items(), ((64, 32), (32, 64)), strict=True):
        masks[place] = torch.zeros(k, 4), torch.zeros(d, 4)
        masks[place][0][:, of_a] = 1
        masks[place][1][:, of_b] = 1
    model = mlp().eval()
    attach(model, MaskPlan.from_masks({p: (a.numpy(), b.numpy()) for p, (a, b) in masks.items()}))
    randomise(model)
    return model


@pytest.mark.parametrize(
    ("ranks", "written"), [({"0": (0, 1), "2": (3, 3)}, {"2"}), ({"0": (0, 1), "2": (2, 3)}, {"0"})]
)
def test_a_module_whose_two_masks_share_no_rank_is_left_out(
    ranks: dict[str, tuple[int, int]], written: set[str], tmp_path: Path
) -> None:
    model = disjoint(ranks)
    for compact in (False, True):
        export_peft(model, tmp_path, compact=compact)
        found = updates(tmp_path, READERS["patterns"])
        assert found.keys() == written
        loaded = peft.PeftModel.from_pretrained(mlp(), str(tmp_path)).eval()
        torch.testing.assert_close(outputs(loaded), outputs(model), rtol=1e-5, atol=1e-5)
        back = mlp().eval()
        import_peft(back, tmp_path)
        torch.testing.assert_close(outputs(back), outputs(model), rtol=1e-5, atol=1e-5)
