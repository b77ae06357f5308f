"""What save_pretrained and a Trainer write of an adapted model, and which heads are saved."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from expandermask.adapters import (
    AdapterConfig,
    attach,
    detach,
    load_adapter,
    merge,
    save_adapter,
    set_adapters,
    unmerge,
)
from tests.adapters.models import bert, gpt2, logits, randomise, same

CONFIG = AdapterConfig(r=16, target_modules=["query", "value"], modules_to_save=["classifier"])
ROWS = [{"input_ids": [i, i + 1, i + 2], "labels": i % 3} for i in range(12)]


def adapted(seed: int = 1) -> BertForSequenceClassification:
    model = bert()
    attach(model, CONFIG, rng=0)
    randomise(model, seed)
    return model


def arguments(folder: Path, **settings: object) -> TrainingArguments:
    return TrainingArguments(
        str(folder),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        **settings,
    )


def test_an_adapted_model_is_saved_under_the_names_of_the_model(tmp_path: Path) -> None:
    model = adapted()
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {n for n in names if ".adapters." not in n} == set(bert().state_dict())
    assert len([n for n in names if ".adapters." in n]) == 8
    plain = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    detach(model)
    own = {n: t for n, t in bert().state_dict().items() if "classifier" not in n}
    assert same({n: plain.state_dict()[n] for n in own}, own)


def test_a_merged_model_is_saved_as_a_plain_one_that_computes_the_same(tmp_path: Path) -> None:
    model = adapted()
    wanted = logits(model)
    merge(model)
    model.save_pretrained(tmp_path / "merged")
    plain = BertForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert set(load_file(tmp_path / "merged" / "model.safetensors")) == set(bert().state_dict())
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(plain), wanted, rtol=1e-4, atol=1e-4)
    unmerge(model)
    assert any("base" in name for name in model.state_dict())


def test_tied_and_transposed_weights_are_saved_as_the_model_saves_them(tmp_path: Path) -> None:
    model = gpt2()
    attach(model, AdapterConfig(r=16), rng=0)
    randomise(model)
    merge(model)
    model.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)


def test_a_state_dict_that_is_given_is_renamed_too(tmp_path: Path) -> None:
    model = adapted()
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert "bert.encoder.layer.0.attention.self.query.weight" in load_file(
        tmp_path / "model.safetensors"
    )


@pytest.mark.parametrize("merged", [False, True])
def test_a_trainers_model_loads(merged: bool, tmp_path: Path) -> None:
    model = adapted()
    if merged:
        merge(model)
    Trainer(model, arguments(tmp_path), train_dataset=ROWS).save_model(str(tmp_path / "end"))
    plain = BertForSequenceClassification.from_pretrained(tmp_path / "end").eval()
    if not merged:
        load_adapter_of(model, plain, tmp_path)
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)


def load_adapter_of(model: nn.Module, plain: nn.Module, folder: Path) -> None:
    save_adapter(model, folder / "adapter")
    load_adapter(plain, folder / "adapter")


def test_a_trainer_goes_on_from_its_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    def run(folder: Path, checkpoint: str | None) -> dict[str, torch.Tensor]:
        model = bert()
        attach(model, CONFIG, rng=0)
        settings = arguments(folder, max_steps=4, save_steps=2)
        Trainer(model, settings, train_dataset=ROWS).train(resume_from_checkpoint=checkpoint)
        return model.state_dict()

    whole = run(tmp_path / "a", None)
    names = load_file(tmp_path / "a" / "checkpoint-2" / "model.safetensors")
    assert "bert.encoder.layer.0.attention.self.query.weight" in names
    assert same(run(tmp_path / "b", str(tmp_path / "a" / "checkpoint-2")), whole)


def test_state_dicts_are_read_by_either_name_of_a_base_weight() -> None:
    first = adapted()
    state = first.state_dict()
    renamed = {name.replace(".base.", "."): tensor for name, tensor in state.items()}
    assert renamed.keys() != state.keys()
    for given in (state, renamed):
        second = adapted(seed=5)
        second.load_state_dict(given)
        assert same(second.state_dict(), state)
    assert not adapted().load_state_dict(renamed).unexpected_keys


def test_save_pretrained_follows_copies_and_pickles_and_goes_with_detach(tmp_path: Path) -> None:
    model = adapted()
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for name, other in (
        ("copy", copy.deepcopy(model)),
        ("pickle", torch.load(stream, weights_only=False)),
    ):
        randomise(other, seed=3)
        other.save_pretrained(tmp_path / name)
        head = load_file(tmp_path / name / "model.safetensors")["classifier.weight"]
        assert torch.equal(head, other.classifier.weight)
        assert not torch.equal(head, model.classifier.weight)
    detach(model)
    assert "save_pretrained" not in vars(model)


# -- modules to save ------------------------------------------------------------------------------


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
        )
    )


def saved(model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    save_adapter(model, folder)
    return load_file(folder / "adapter_model.safetensors")


def test_embeddings_resized_after_attach_are_the_ones_that_are_saved(tmp_path: Path) -> None:
    config = AdapterConfig(
        r=8, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    model = llama()
    attach(model, config, rng=0)
    model.resize_token_embeddings(70)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    found = saved(model, tmp_path)
    assert torch.equal(found["lm_head.weight"], model.lm_head.weight)
    assert torch.equal(found["model.embed_tokens.weight"], model.model.embed_tokens.weight)
    fresh = llama()
    fresh.resize_token_embeddings(70)
    load_adapter(fresh, tmp_path)
    assert torch.equal(fresh.lm_head.weight, model.lm_head.weight)


def test_a_head_assigned_anew_is_the_one_that_is_saved(tmp_path: Path) -> None:
    model = adapted()
    model.classifier = nn.Linear(64, 5)
    assert torch.equal(saved(model, tmp_path)["classifier.weight"], model.classifier.weight)


def test_a_new_head_stays_its_adapters_own_through_switches(tmp_path: Path) -> None:
    model = adapted()
    attach(model, CONFIG, name="other", rng=1)
    own = model.classifier = nn.Linear(64, 3)
    set_adapters(model, "other")
    theirs = model.classifier
    assert theirs is not own
    save_adapter(model, tmp_path / "default", name="default")
    found = load_file(tmp_path / "default" / "adapter_model.safetensors")
    assert torch.equal(found["classifier.weight"], own.weight)
    set_adapters(model, "default")
    assert model.classifier is own
    detach(model)
    assert torch.equal(model.classifier.weight, bert().classifier.weight)
