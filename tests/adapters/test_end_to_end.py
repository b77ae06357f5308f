"""The whole path on the real MiniLM-L6: attach, train, save, reload, export, detach."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from expandermask import certify
from expandermask.adapters import (
    AdapterConfig,
    attach,
    detach,
    export_peft,
    load_adapter,
    save_adapter,
)
from tests.adapters.models import layers, minilm_folder, same, state, trainable
from tests.adapters.pairs import the_adapter

SENTENCES = {
    "a wonderful, warm and funny film": 1,
    "i loved every minute of it": 1,
    "the best performance of her career": 1,
    "smart, moving and beautifully shot": 1,
    "a dull and lifeless mess": 0,
    "i wanted my money back": 0,
    "the worst script of the year": 0,
    "tedious, loud and badly acted": 0,
}


def minilm() -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=2)
    return model.eval()


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    inputs = dict(tokenizer(list(SENTENCES), padding=True, return_tensors="pt"))
    return {**inputs, "labels": torch.tensor(list(SENTENCES.values()))}


def test_fine_tuning_minilm_for_a_few_steps(batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = minilm()
    before = state(model)
    config = AdapterConfig(
        target_modules=r"bert\.encoder\..*", modules_to_save=["classifier"], lora_alpha=16
    )
    plan = attach(model, config, rng=0)
    assert len(plan) == 36
    assert certify(plan["bert.encoder.layer.0.intermediate.dense"].b).verdict == "PROVED"
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all((the_adapter(layer).lora_B != 0).any() for layer in layers(model))
    with torch.no_grad():
        logits = model(**batch).logits
        save_adapter(model, tmp_path / "adapter")
        export_peft(model, tmp_path / "peft")
        fresh = minilm()
        load_adapter(fresh, tmp_path / "adapter")
        assert torch.equal(fresh(**batch).logits, logits)
        stock = peft.PeftModel.from_pretrained(minilm(), str(tmp_path / "peft")).eval()
        torch.testing.assert_close(stock(**batch).logits, logits, rtol=1e-5, atol=1e-5)
    detach(model)
    assert same(state(model), before)
