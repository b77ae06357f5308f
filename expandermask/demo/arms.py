"""The three arms: a frozen probe, dense LoRA by stock PEFT, and the masked adapter.

The last two share everything but the adapter itself and its learning rate: the model, the head and
its first values, the adapted layers, the rank, the batches, the dropout and the number of epochs.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from expandermask.adapters import AdapterConfig, attach, save_adapter
from expandermask.demo.data import Snippets
from expandermask.demo.folders import replacing_folder
from expandermask.demo.model import HEAD, encoder_linears, load_model, load_tokenizer
from expandermask.demo.probe import features, fit_probe
from expandermask.demo.result import ArmResult
from expandermask.demo.settings import Settings
from expandermask.demo.training import (
    Encoded,
    Schedule,
    Trained,
    accuracy,
    encode,
    logits,
    train,
)
from expandermask.masks.adapter_file import WEIGHTS_NAME
from expandermask.masks.plan import MaskPlan

PROBE, LORA, MASKED = "frozen probe", "dense LoRA", "masked adapter"


@dataclass(frozen=True)
class Materials:
    """What every arm starts from: the model to load, tokenised snippets, settings and a seed."""

    source: str
    train: Encoded
    held_out: Encoded
    settings: Settings
    seed: int
    progress: bool = True

    @classmethod
    def load(
        cls,
        source: str,
        train: Snippets,
        held_out: Snippets,
        settings: Settings,
        seed: int,
        progress: bool = True,
    ) -> Materials:
        """Tokenise the snippets once with the model's tokenizer."""
        tokenizer = load_tokenizer(source)
        parts = encode(tokenizer, train), encode(tokenizer, held_out)
        return cls(source, *parts, settings, seed, progress)


def make_plan(materials: Materials) -> MaskPlan:
    """A certified pair of masks for every linear layer of the encoder."""
    settings = materials.settings
    model = load_model(materials.source, materials.seed)
    return MaskPlan.for_model(
        model,
        target_modules=encoder_linears(model),
        r=settings.r,
        left_degree=settings.left_degree,
        rng=materials.seed,
        progress=materials.progress,
    )


def frozen_probe(materials: Materials) -> ArmResult:
    """Logistic regression on mean-pooled features of the untouched model."""
    started = time.perf_counter()
    model = load_model(materials.source, materials.seed)
    known = features(model, materials.train)
    probe = fit_probe(known, materials.train.labels, materials.settings.probe_penalty)
    seconds = time.perf_counter() - started
    held_out = features(model, materials.held_out)
    values = probe.weight.size + 1
    return ArmResult(
        name=PROBE,
        accuracy=probe.accuracy(held_out, materials.held_out.labels),
        seconds=seconds,
        tuned=f"L2 penalty {materials.settings.probe_penalty:g}",
        trainable_values=values,
        gradient_bytes=8 * values,
        optimizer_bytes=0,
        file_bytes=8 * values,
    )


def dense_lora(materials: Materials, folder: Path) -> ArmResult:
    """Stock PEFT LoRA of the plan's rank on the same layers, every entry trained; saved."""
    from peft import LoraConfig, get_peft_model

    settings = materials.settings
    base = load_model(materials.source, materials.seed)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=settings.r,
        lora_alpha=int(settings.lora_alpha),
        lora_dropout=0.0,
        target_modules=encoder_linears(base),
        modules_to_save=[HEAD],
    )
    torch.manual_seed(materials.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a flag transformers renamed
        model = get_peft_model(base, config)
    rate = settings.lora_learning_rate
    trained = _train(model, materials, LORA, rate)
    model.save_pretrained(folder, save_embedding_layers=False)
    return _judge(LORA, logits(model, materials.held_out), materials, rate, trained, folder)


def masked_adapter(
    materials: Materials, plan: MaskPlan, folder: Path
) -> tuple[ArmResult, nn.Module, Tensor]:
    """The masked adapter of ``plan``, saved as soon as it is trained; its model and logits."""
    settings = materials.settings
    model = load_model(materials.source, materials.seed)
    config = AdapterConfig(
        r=settings.r,
        left_degree=settings.left_degree,
        lora_alpha=settings.lora_alpha,
        target_modules=tuple(plan),
        modules_to_save=(HEAD,),
    )
    attach(model, plan, config=config)
    rate = settings.masked_learning_rate
    trained = _train(model, materials, MASKED, rate)
    with replacing_folder(folder) as temporary:
        save_adapter(model, temporary)
    found = logits(model, materials.held_out)
    return _judge(MASKED, found, materials, rate, trained, folder), model, found


def _train(model: nn.Module, materials: Materials, name: str, learning_rate: float) -> Trained:
    settings = materials.settings
    return train(
        model,
        materials.train,
        Schedule(learning_rate, settings.epochs, settings.batch_size),
        seed=materials.seed,
        name=name,
        progress=materials.progress,
    )


def _judge(
    name: str,
    found: Tensor,
    materials: Materials,
    learning_rate: float,
    trained: Trained,
    folder: Path,
) -> ArmResult:
    """The arm's result, from its logits on the held-out snippets and the file it saved."""
    return ArmResult(
        name=name,
        accuracy=accuracy(found, materials.held_out),
        seconds=trained.seconds,
        tuned=f"learning rate {learning_rate:g}",
        trainable_values=trained.trainable_values,
        gradient_bytes=trained.gradient_bytes,
        optimizer_bytes=trained.optimizer_bytes,
        file_bytes=(folder / WEIGHTS_NAME).stat().st_size,
        final_loss=trained.final_loss,
    )
