"""The page's table of calls: each that is "same" runs as for LoRA, each "refused" is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import peft
import pytest
import torch
from peft import optimizers
from peft.helpers import disable_input_dtype_casting, rescale_adapter_scale
from peft.utils import hotswap
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from expandermask.errors import AdapterError
from expandermask.peft import XoraConfig
from tests.adapters.models import gpt2, mlp, tokens
from tests.peft.cases import stir
from tests.peft.tables import table

ROWS = table("Calls")
X = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
Model = peft.PeftModel


def config(**changes: Any) -> XoraConfig:
    return XoraConfig(**{"r": 16, "mask_seed": 0, **changes})


def adapted(kind: str = "xora") -> Model:
    """Two adapters that do something, the first active, in eval mode."""
    lora = peft.LoraConfig(r=16, target_modules=["0", "2"], init_lora_weights=False)
    first, second = (lora, lora) if kind == "lora" else (config(), config(mask_seed=1))
    model = peft.get_peft_model(mlp(), first)
    model.add_adapter("other", second)
    stir(model)
    return model.eval()


def out(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(X)


def close(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-4, atol=1e-4)


BASE = out(mlp())


# -- calls that are the same: each says whether it did what it does for LoRA -----------------------


def starts_as_the_base(_: Path) -> bool:
    return close(out(peft.get_peft_model(mlp(), config())), BASE)


def injected(_: Path) -> bool:
    return isinstance(peft.inject_adapter_in_model(config(), mlp()), nn.Sequential)


def saved_and_loaded(folder: Path, **options: bool) -> bool:
    model = adapted()
    model.save_pretrained(folder)
    again = peft.PeftModel.from_pretrained(mlp(), folder, **options)
    again.load_adapter(str(folder / "other"), "other", **options)
    first = close(out(again), out(model))
    for each in (model, again):
        each.set_adapter("other")
    return first and close(out(again), out(model)) and not close(out(model), BASE)


def loaded_by_auto(folder: Path) -> bool:
    """By the class of the task if the config names one, and by the general class if not."""
    gpt2().save_pretrained(folder / "base")
    found = []
    for auto, task in ((peft.AutoPeftModelForCausalLM, "CAUSAL_LM"), (peft.AutoPeftModel, None)):
        base = AutoModelForCausalLM.from_pretrained(folder / "base")
        model = peft.get_peft_model(base, config(task_type=task, init_lora_weights=False)).eval()
        model.save_pretrained(folder / str(task))
        again = auto.from_pretrained(folder / str(task)).eval()
        with torch.no_grad():
            found.append(close(again(tokens()).logits, model(tokens()).logits))
    return all(found)


def state_goes_over(_: Path) -> bool:
    model, other = adapted(), peft.get_peft_model(mlp(), config(mask_seed=9)).eval()
    peft.set_peft_model_state_dict(other, peft.get_peft_model_state_dict(model))
    return close(out(other), out(model))


def carded(folder: Path) -> bool:
    adapted().save_pretrained(folder)
    text = (folder / "README.md").read_text()
    return "peft" in text.lower() and "import expandermask.peft" in text


def deleted(_: Path) -> bool:
    model = adapted()
    model.delete_adapter("other")
    return list(model.peft_config) == ["default"]


def disabled(_: Path) -> bool:
    model = adapted()
    with model.disable_adapter():
        off = close(out(model), BASE)
    return off and not close(out(model), BASE)


def layers_disabled(_: Path) -> bool:
    model = adapted()
    model.base_model.disable_adapter_layers()
    off = close(out(model), BASE)
    model.base_model.enable_adapter_layers()
    return off and not close(out(model), BASE)


def frozen(_: Path) -> bool:
    model = adapted()
    model.set_requires_grad("default", False)
    return int(model.get_nb_trainable_parameters()[0]) == 0


def by_row(_: Path) -> bool:
    model = adapted()
    with torch.no_grad():
        rows = model(X, adapter_names=["__base__", "other", "default", "default", "__base__"])
    return close(rows[[0, 4]], BASE[[0, 4]]) and close(rows[2:4], out(model)[2:4])


def updates(model: Model) -> dict[str, Tensor]:
    layer = model.base_model.model[0]
    return {name: layer.get_delta_weight(name) for name in model.peft_config}


def summed_exactly(_: Path) -> bool:
    model = adapted()
    model.add_weighted_adapter(["default", "other"], [1.0, -0.5], "sum")
    found = updates(model)
    return close(found["sum"], found["default"] - 0.5 * found["other"])


def merged_and_back(_: Path) -> bool:
    model = adapted()
    before, weight = out(model), model.base_model.model[0].weight.clone()
    model.merge_adapter()
    merged = close(out(model), before) and not close(model.base_model.model[0].weight, weight)
    model.unmerge_adapter()
    return merged and torch.equal(model.base_model.model[0].weight, weight)


def merged_for_good(_: Path) -> bool:
    model = adapted()
    before = out(model)
    plain = model.merge_and_unload()
    return close(out(plain), before) and type(plain[0]) is nn.Linear


def unloaded(_: Path) -> bool:
    return torch.equal(out(adapted().unload()), BASE)


def unwrapped(_: Path) -> bool:
    return isinstance(adapted().get_base_model(), nn.Sequential)


def delta_added(_: Path) -> bool:
    model = adapted()
    weight = mlp()[0].weight + model.base_model.model[0].get_delta_weight("default")
    return close(model.merge_and_unload()[0].weight, weight)


def scaled(_: Path) -> bool:
    model = adapted()
    layer, before = model.base_model.model[0], updates(model)["default"]
    found = []
    for change, factor in ((layer.scale_layer, 4), (layer.unscale_layer, 2)):
        change(factor)
        found.append(layer.get_delta_weight("default"))
    layer.set_scale("default", 3)
    found.append(layer.get_delta_weight("default"))
    return all(close(one, by * before) for one, by in zip(found, (4, 2, 3), strict=True))


def cast_as_before(_: Path) -> bool:
    model = adapted()
    with disable_input_dtype_casting(model):
        return close(out(model), out(model))


def status(model: Model) -> list[Any]:
    """What PEFT says of a model, without what is of one method by design."""
    layers = [(s.name, s.active_adapters, s.requires_grad) for s in model.get_layer_status()]
    whole = model.get_model_status()
    return [layers, whole.available_adapters, whole.active_adapters, whole.merged_adapters]


def status_as_lora(_: Path) -> bool:
    return status(adapted()) == status(adapted("lora"))


def counted(_: Path) -> bool:
    model = adapted()
    with redirect_stdout(StringIO()) as said:
        model.print_trainable_parameters()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    told = f"trainable params: {trained:,} || all params: {total:,}" in said.getvalue()
    return told and model.get_nb_trainable_parameters() == (trained, total)


def converted(folder: Path) -> bool:
    model = adapted()
    lora, _ = peft.convert_to_lora(model, rank=16)
    peft.save_as_lora(str(folder), model, rank=16)
    stock = peft.PeftModel.from_pretrained(mlp(), str(folder))
    return model.supports_lora_conversion() and lora.r == 16 and close(out(stock), out(model))


def prepared_for_kbit(_: Path) -> bool:
    model = peft.get_peft_model(peft.prepare_model_for_kbit_training(gpt2()), config())
    model.train()(tokens(), labels=tokens()).loss.backward()
    return all(p.grad is not None for p in model.parameters() if p.requires_grad)


def grouped(_: Path) -> bool:
    optimizer = optimizers.create_loraplus_optimizer(
        adapted(), torch.optim.SGD, lr=1.0, loraplus_lr_ratio=16
    )
    return {group["lr"] for group in optimizer.param_groups if group["params"]} == {1.0, 16.0}


def transformers_own(folder: Path) -> bool:
    model, again = gpt2(), gpt2()
    model.add_adapter(config(init_lora_weights=False, target_modules=["c_attn"]), "default")
    model.save_pretrained(folder)
    again.load_adapter(folder)
    with torch.no_grad():
        found, expected, base = (m(tokens()).logits for m in (again, model, gpt2()))
    return close(found, expected) and not close(expected, base)


def mixes_with_lora(_: Path) -> bool:
    model = peft.get_peft_model(mlp(), config(), mixed=True)
    model.add_adapter("other", peft.LoraConfig(target_modules=["2"], init_lora_weights=False))
    model.set_adapter(["default", "other"])
    both = model(X)
    model.set_adapter("default")
    return not torch.allclose(both, model(X))


SAME: dict[str, Callable[[Path], bool]] = {
    "get_peft_model": starts_as_the_base,
    "get_peft_model(mixed=True)": mixes_with_lora,
    "inject_adapter_in_model": injected,
    "from_pretrained": saved_and_loaded,
    "AutoPeftModel": loaded_by_auto,
    "low_cpu_mem_usage=True": lambda folder: saved_and_loaded(folder, low_cpu_mem_usage=True),
    "save_pretrained": saved_and_loaded,
    "get_peft_model_state_dict": state_goes_over,
    "set_peft_model_state_dict": state_goes_over,
    "create_or_update_model_card": carded,
    "add_adapter": saved_and_loaded,
    "load_adapter": saved_and_loaded,
    "set_adapter": saved_and_loaded,
    "delete_adapter": deleted,
    "disable_adapter": disabled,
    "disable_adapter_layers": layers_disabled,
    "enable_adapter_layers": layers_disabled,
    "set_requires_grad": frozen,
    "adapter_names=": by_row,
    "add_weighted_adapter": summed_exactly,
    "merge_adapter": merged_and_back,
    "unmerge_adapter": merged_and_back,
    "merge_and_unload": merged_for_good,
    "unload": unloaded,
    "get_base_model": unwrapped,
    "get_delta_weight": delta_added,
    "set_scale": scaled,
    "scale_layer": scaled,
    "unscale_layer": scaled,
    "disable_input_dtype_casting": cast_as_before,
    "get_layer_status": status_as_lora,
    "get_model_status": status_as_lora,
    "get_nb_trainable_parameters": counted,
    "print_trainable_parameters": counted,
    "supports_lora_conversion": converted,
    "convert_to_lora": converted,
    "save_as_lora": converted,
    "prepare_model_for_kbit_training": prepared_for_kbit,
    "create_loraplus_optimizer": grouped,
    "transformers' add_adapter": transformers_own,
    "transformers' load_adapter": transformers_own,
}


# -- calls that are refused: each raises an error with these words ---------------------------------


def hot_swapped(folder: Path) -> None:
    model = adapted()
    model.save_pretrained(folder)
    hotswap.hotswap_adapter(model, folder, "default")


def converted_on_saving(folder: Path) -> None:
    model = adapted()
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(folder))


def rescaled(_: Path) -> None:
    with rescale_adapter_scale(adapted(), 0.5):
        pass


def stepped_by_lorafa(_: Path) -> None:
    model = adapted()
    optimizer = optimizers.create_lorafa_optimizer(model, r=16, lora_alpha=16, lr=0.1)
    model(X).sum().backward()
    optimizer.step()


def riemannian(_: Path) -> None:
    optimizers.create_riemannian_optimizer(adapted(), torch.optim.SGD, lr=0.1)


def loftq(folder: Path) -> None:
    model = mlp()
    model[0] = bnb.nn.Linear4bit(64, 32, quant_type="nf4").to("cpu")
    tuned = peft.get_peft_model(model, config())
    (folder / "model.safetensors").touch()
    peft.replace_lora_weights_loftq(tuned, str(folder / "model.safetensors"))


def arrow(folder: Path) -> None:
    adapted().save_pretrained(folder)
    peft.create_arrow_model(mlp(), [str(folder)], peft.ArrowConfig())


def eva(_: Path) -> None:
    peft.initialize_lora_eva_weights(adapted(), [X])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "save_pretrained(path_initial_model_for_weight_conversion=...)": (
        converted_on_saving,
        "not supported for XoraModel",
    ),
    "rescale_adapter_scale": (rescaled, "only supported for models with `LoraLayer`s"),
    "hotswap_adapter": (hot_swapped, "only supports LORA but XORA"),
    "prepare_model_for_compiled_hotswap": (
        lambda _: hotswap.prepare_model_for_compiled_hotswap(adapted(), target_rank=32),
        "No adapter layers found",
    ),
    "create_lorafa_optimizer": (stepped_by_lorafa, "TypeError"),
    "create_riemannian_optimizer": (riemannian, "did not find any trainable lora_A/lora_B"),
    "replace_lora_weights_loftq": (loftq, "No bnb LoRA module found"),
    "initialize_lora_eva_weights": (eva, "init_lora_weights='eva'"),
    "create_arrow_model": (arrow, "RuntimeError"),
}

NO_CALLS = {
    "active_adapters",
    "active_peft_config",
    "base_model_torch_dtype",
    "forward",
    "from_config",
    "generate",
    "get_prompt",
    "get_prompt_embedding_to_save",
    "has_active_enabled_adapter",
    "inject_adapter",
    "get_model_config",
    "modules_to_save",
    "peft_config",
    "prepare_model_for_gradient_checkpointing",
    "push_to_hub",
    "subtract_mutated_init",
    "target_module_mapping",
    "tuner_layer_cls",
    "prefix",
    "uses_shared_state",
}
"""Properties, what belongs to other methods, and what PEFT calls itself."""


def sums() -> tuple[str, set[str]]:
    """The row of the sums that are refused, and their names."""
    row = next(name for name in ROWS if name.startswith("add_weighted_adapter with"))
    return row, set(re.findall(r'"(\w+)"', row))


def test_every_row_is_tried() -> None:
    refused = {name for name, (here, _) in ROWS.items() if here == "refused"}
    assert refused == {*REFUSED, sums()[0]}
    assert set(ROWS) - refused == set(SAME)
    assert {ROWS[name][0] for name in SAME} == {"same", "other default"}


def test_every_public_name_of_a_peft_model_and_of_lora_s_tuner_has_a_row() -> None:
    public = {n for kind in (peft.PeftModel, peft.LoraModel) for n in dir(kind) if n[0] != "_"}
    assert public - set(dir(nn.Module)) - set(ROWS) <= NO_CALLS


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_does_what_it_does_for_lora(name: str, tmp_path: Path) -> None:
    assert SAME[name](tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_raises(name: str, tmp_path: Path) -> None:
    call, words = REFUSED[name]
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        call(tmp_path)
    assert words in f"{type(caught.value).__name__}: {caught.value}"
    if words.endswith("Error"):
        assert words in ROWS[name][1]


def test_sums_that_are_refused_are_all_but_one_of_lora_s() -> None:
    row, refused = sums()
    text = peft.LoraModel.add_weighted_adapter.__doc__ or ""
    listed = re.search(r"merging type can be one of \[(.*?)\]", text, re.DOTALL)
    assert listed is not None
    assert refused | {"cat"} == set(re.findall(r"`(\w+)`", listed[1]))
    for kind in refused:
        with pytest.raises(AdapterError) as caught:
            adapted().add_weighted_adapter(["default", "other"], [1, 1], "sum", kind)
        assert ROWS[row][1] in str(caught.value)


def test_adapters_of_another_method_are_refused_beside_these() -> None:
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        adapted().add_adapter("third", peft.LoraConfig(r=8, target_modules=["0"]))


def test_transformers_swaps_lora_only(tmp_path: Path) -> None:
    model = gpt2()
    model.add_adapter(config(target_modules=["c_attn"]), "default")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="only supported for LoRA"):
        model.load_adapter(tmp_path, adapter_name="default", hotswap=True)
