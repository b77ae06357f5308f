"""What works on adapters of attach works on those that PEFT holds, with equal numbers."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from peft import convert_to_lora, save_as_lora
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from expandermask import MaskPlan, inspect_mask
from expandermask.adapters import (
    AdapterCallback,
    AdapterConfig,
    active_adapters,
    adapter_names,
    attach,
    change_masks,
    detach,
    export_peft,
    load_adapter,
    merge,
    parameter_report,
    residual_norms,
    save_adapter,
    set_adapters,
    unmerge,
)
from expandermask.adapters.attachment import mask_hashes, masked_layers
from expandermask.allocation import AdaLoRA, ALoRA, DiffoRA, Policy, ROLoRA, SaLoRA, SoRA, prune
from expandermask.errors import AdapterError, InfeasibleShapeError
from expandermask.peft import XoraConfig
from tests.adapters.models import bert, logits, mlp, randomise, same

STEPS = 12
X, Y = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(0))


def both(left_degree: int = 8) -> tuple[nn.Module, peft.PeftModel]:
    """One model with adapters from attach, and one with the same adapters in PEFT."""
    own = mlp()
    attach(own, AdapterConfig(r=8, left_degree=left_degree), rng=0)
    return own, peft.get_peft_model(mlp(), XoraConfig(r=8, left_degree=left_degree, mask_seed=0))


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor] = (X, Y)) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def train(model: nn.Module, policy: Policy) -> list[float]:
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=1e-2))
    policy.follow(optimizer)
    losses = []
    for step in range(STEPS):
        loss = loss_of(model)
        (loss + policy.loss()).backward()
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


POLICIES: dict[str, Callable[[], Policy]] = {
    "adalora": lambda: AdaLoRA(target_rank=3, total_steps=STEPS, final_steps=3),
    "sora": lambda: SoRA(strength=5.0),
    "salora": lambda: SaLoRA(target_density=0.5, start_step=1, end_step=STEPS),
    "alora": lambda: ALoRA(
        score=lambda model: -float(loss_of(model)),
        start_rank=4,
        first_steps=2,
        recovery_steps=2,
        rounds=2,
    ),
    "rolora": lambda: ROLoRA(target_rank=4, total_steps=STEPS),
    "diffora": lambda: DiffoRA(
        validation=[(X, Y)], search_steps=4, select_rate=1.0, loss=loss_of, share_rank=2
    ),
}


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_policy_trains_an_adapter_of_peft_as_one_of_attach(name: str, tmp_path: Path) -> None:
    own, tuned = both()
    policies = [POLICIES[name]() for _ in range(2)]
    assert train(own, policies[0]) == pytest.approx(train(tuned, policies[1]), rel=1e-5)
    assert policies[0].ranks() == policies[1].ranks()
    assert policies[0].finish() == policies[1].finish()
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(X), tuned.eval()(X), rtol=1e-5, atol=1e-5)
        tuned.save_pretrained(str(tmp_path))
        again = peft.PeftModel.from_pretrained(mlp(), str(tmp_path)).eval()
        torch.testing.assert_close(again(X), tuned(X), rtol=1e-5, atol=1e-5)
    assert again.base_model.mask_plans == tuned.base_model.mask_plans


def test_gates_are_saved_and_loaded_by_peft(tmp_path: Path) -> None:
    _, tuned = both()
    randomise(tuned)
    layer = tuned.get_base_model()[0]
    layer.adapter("default").set_rank_gate(torch.linspace(-1, 1, 8))
    layer.adapter("default").set_module_gate(nn.Parameter(torch.tensor(0.5)))
    tuned.save_pretrained(str(tmp_path))
    again = peft.PeftModel.from_pretrained(mlp(), str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(X), tuned.eval()(X), rtol=1e-5, atol=1e-5)


def test_a_gate_that_a_policy_computes_is_kept_when_a_state_is_loaded() -> None:
    _, tuned = both()
    adapter = tuned.get_base_model()[0].adapter("default")
    adapter.set_rank_gate(torch.linspace(-1, 1, 8))
    state = tuned.state_dict()
    computed = torch.ones(8)
    adapter.set_rank_gate(computed)
    tuned.load_state_dict(state)  # strict: the key is in the state, and no parameter's
    assert adapter.rank_gate is computed
    assert torch.equal(computed, torch.ones(8))


def test_verbs_give_the_same_for_both(tmp_path: Path) -> None:
    own, tuned = both(left_degree=2)
    randomise(own)
    randomise(tuned)
    assert adapter_names(tuned) == active_adapters(tuned) == ("default",)
    assert residual_norms(tuned) == residual_norms(own)
    assert parameter_report(tuned).masked == parameter_report(own).masked
    save_adapter(tuned, tmp_path / "saved")
    fresh = mlp()
    load_adapter(fresh, tmp_path / "saved")
    export_peft(tuned, tmp_path / "export")
    stock = peft.PeftModel.from_pretrained(mlp(), str(tmp_path / "export"))
    with torch.no_grad():
        wanted = own(X)
        torch.testing.assert_close(tuned(X), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fresh(X), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stock(X), wanted)
        merge(tuned)
        torch.testing.assert_close(tuned(X), wanted)
        unmerge(tuned)
        torch.testing.assert_close(tuned(X), wanted, rtol=1e-5, atol=1e-5)
    before = mlp().state_dict()
    assert same(
        {n: tuned.get_base_model()[int(n[0])].weight for n in ("0.weight",)},
        {"0.weight": before["0.weight"]},
    )


def test_changed_masks_are_saved_and_loaded_by_peft(tmp_path: Path) -> None:
    own, tuned = both(left_degree=2)
    other = MaskPlan.for_model(mlp(), r=8, left_degree=4, method="random", rng=5)
    for model in (own, tuned):
        randomise(model)
        change_masks(model, other)
        randomise(model)
    tuned.save_pretrained(str(tmp_path))
    again = peft.PeftModel.from_pretrained(mlp(), str(tmp_path))
    assert again.base_model.mask_plans["default"] == other
    with torch.no_grad():
        torch.testing.assert_close(tuned(X), own(X), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again(X), own(X), rtol=1e-5, atol=1e-5)
    assert len(inspect_mask(tmp_path).masks) == 4


def test_changed_masks_have_one_hash_after_pefts_files(tmp_path: Path) -> None:
    tuned = peft.get_peft_model(bert(), XoraConfig(r=16, mask_seed=0))
    change_masks(tuned, MaskPlan.for_model(bert(), r=16, rng=9))
    tuned.save_pretrained(str(tmp_path))
    again = peft.PeftModel.from_pretrained(bert(), str(tmp_path))
    assert mask_hashes(again) == mask_hashes(tuned)


def test_other_masks_are_not_loaded_into_a_merged_adapter() -> None:
    tuned, other = (peft.get_peft_model(mlp(), XoraConfig(r=8, mask_seed=seed)) for seed in (0, 1))
    randomise(tuned)
    values = {k: v for k, v in other.state_dict().items() if "base_layer" not in k}
    merge(tuned)
    with pytest.raises(AdapterError, match=r"is merged, .* call unmerge_adapter"):
        tuned.load_state_dict(values, strict=False)
    unmerge(tuned)
    assert torch.equal(tuned.get_base_model()[0].weight, mlp()[0].weight)


def test_a_peft_model_is_refused_and_keeps_its_adapter(tmp_path: Path) -> None:
    _, tuned = both()
    for model, r, words in ((tuned, 8, "a PeftModel already"), (tuned.get_base_model(), 7, "r=7")):
        with pytest.raises((AdapterError, InfeasibleShapeError), match=words):
            peft.get_peft_model(model, XoraConfig(r=r))
        assert adapter_names(tuned) == ("default",)


def test_a_head_that_replaced_pefts_copy_is_not_lost(tmp_path: Path) -> None:
    config = XoraConfig(r=16, mask_seed=0, modules_to_save=["classifier"], task_type="SEQ_CLS")
    tuned = peft.get_peft_model(bert(), config)
    save_adapter(tuned, tmp_path / "before")
    tuned.get_base_model().classifier = nn.Linear(64, 5)
    for verb in (
        lambda: tuned.save_pretrained(str(tmp_path / "peft")),
        lambda: save_adapter(tuned, tmp_path / "own"),
        lambda: export_peft(tuned, tmp_path / "lora"),
    ):
        with pytest.raises(AdapterError, match=r"'classifier' is among .* the Linear there"):
            verb()


def test_what_peft_holds_is_left_to_peft() -> None:
    own, tuned = both()
    for verb in (detach, lambda model: set_adapters(model, "default")):
        with pytest.raises(AdapterError, match="PEFT holds the adapters"):
            verb(tuned)
    with pytest.raises(AdapterError, match="PEFT holds the adapters"):
        attach(tuned, AdapterConfig(r=8), rng=0, name="second")
    with pytest.raises(AdapterError, match=r"attach\(\) holds the adapters"):
        peft.get_peft_model(own, XoraConfig(r=8))
    tuned.unload()
    attach(tuned.get_base_model(), AdapterConfig(r=8), rng=0)


def test_the_trainers_callback_saves_adapters_of_peft(tmp_path: Path) -> None:
    config = XoraConfig(r=16, mask_seed=0, task_type="SEQ_CLS")
    rows = [{"input_ids": [i, i + 1, i + 2], "labels": i % 3} for i in range(12)]

    def run(folder: str, checkpoint: str | None = None) -> peft.PeftModel:
        model = peft.get_peft_model(bert(), config)
        settings = TrainingArguments(
            str(tmp_path / folder),
            max_steps=4,
            save_steps=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=1e-2,
            logging_strategy="no",
        )
        trainer = Trainer(model, settings, train_dataset=rows, callbacks=[AdapterCallback()])
        trainer.train(resume_from_checkpoint=checkpoint)
        return model

    first = run("a")
    fresh = bert()
    load_adapter(fresh, tmp_path / "a" / "checkpoint-4" / "adapter" / "default")
    torch.testing.assert_close(
        logits(fresh), logits(first.eval().get_base_model()), rtol=1e-5, atol=1e-5
    )
    second = run("b", str(tmp_path / "a" / "checkpoint-2"))
    assert same(first.state_dict(), second.state_dict())


# -- PEFT's own conversions, and its model card ----------------------------------------------------


def test_pefts_conversion_to_lora_is_exact_at_the_rank(tmp_path: Path) -> None:
    _, tuned = both(left_degree=2)
    randomise(tuned)
    assert tuned.supports_lora_conversion()
    config, _ = convert_to_lora(tuned, rank=8)
    assert config.r == 8
    save_as_lora(str(tmp_path), tuned, rank=8)
    stock = peft.PeftModel.from_pretrained(mlp(), str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(stock(X), tuned(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [8, 0.999999])
def test_pefts_conversion_takes_a_module_that_has_no_rank_left(rank: float, tmp_path: Path) -> None:
    _, tuned = both(left_degree=2)
    randomise(tuned)
    masked_layers(tuned)["0"].adapter("default").set_rank_gate(torch.zeros(8))
    assert prune(tuned) == {"0": 0, "2": 8}
    save_as_lora(str(tmp_path), tuned, rank=rank)
    stock = peft.PeftModel.from_pretrained(mlp(), str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(stock(X), tuned(X), rtol=1e-3, atol=1e-3)


def test_the_conversion_refuses_an_embedding_and_names_what_works() -> None:
    model = peft.get_peft_model(bert(), XoraConfig(r=4, target_modules=["word_embeddings"]))
    assert not model.supports_lora_conversion()
    with pytest.raises(AdapterError, match="export_peft"):
        convert_to_lora(model, rank=4)


def test_a_folder_says_which_import_loads_it(tmp_path: Path) -> None:
    _, tuned = both()
    randomise(tuned)
    tuned.save_pretrained(str(tmp_path))
    tuned.save_pretrained(str(tmp_path))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.count("import expandermask.peft\n") == 1
    assert set(ModelCard(card).data.tags) >= {"lora", "xora"}
    assert ModelCard(card).data.library_name == "peft"
    code = card.split("```python\n")[1].split("```")[0].replace("this folder", str(tmp_path))
    assert code.startswith("import expandermask.peft\n")
    base = (
        "import torch; base_model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), "
        "torch.nn.Linear(32, 64, bias=False))\n"
    )
    subprocess.run([sys.executable, "-c", base + code], check=True)


@pytest.mark.parametrize("compact", [False, True])
def test_an_adapted_embedding_that_peft_holds_is_exported_as_one(
    compact: bool, tmp_path: Path
) -> None:
    config = XoraConfig(r=4, target_modules=["word_embeddings", "query"], mask_seed=0)
    tuned = peft.get_peft_model(bert(), config).eval()
    randomise(tuned)
    export_peft(tuned, tmp_path, compact=compact)
    stock = peft.PeftModel.from_pretrained(bert(), str(tmp_path)).eval()
    torch.testing.assert_close(logits(stock), logits(tuned), rtol=1e-5, atol=1e-5)


def test_transformers_own_adapters_are_known_too(tmp_path: Path) -> None:
    model = bert()
    model.add_adapter(XoraConfig(r=16, target_modules=["query"], mask_seed=0), "first")
    model.add_adapter(XoraConfig(r=16, target_modules=["value"], mask_seed=1), "second")
    assert adapter_names(model) == ("first", "second")
    save_adapter(model, tmp_path, name="second")
    model.delete_adapter("first")
    assert adapter_names(model) == ("second",)


def test_masks_in_a_config_that_are_not_the_models_are_refused(tmp_path: Path) -> None:
    _, tuned = both(left_degree=2)
    change_masks(tuned, MaskPlan.for_model(mlp(), r=8, left_degree=4, rng=5))
    tuned.save_pretrained(str(tmp_path))
    other = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32))
    with pytest.raises(AdapterError, match=r"mask_plan has masks for '2' of shape \(64, 32\)"):
        peft.PeftModel.from_pretrained(other, str(tmp_path))


@pytest.mark.parametrize("which", [0, 1])
def test_training_a_merged_adapter_is_told(which: int) -> None:
    model = both()[which]
    merge(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(X)
        with torch.no_grad():
            model.train()(X)
    with pytest.warns(UserWarning, match="are merged, so this forward pass"):
        model(X)


@pytest.mark.parametrize("which", [0, 1])
def test_a_base_weight_is_not_loaded_under_a_merged_update(which: int) -> None:
    model = both()[which]
    state = model.state_dict()
    merge(model)
    with pytest.raises(AdapterError, match="call unmerge"):
        model.load_state_dict(state)
    unmerge(model)
    model.load_state_dict(state)
