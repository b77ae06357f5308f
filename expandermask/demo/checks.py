"""The proof that the files are whole: load them into fresh models and compare every test logit."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from expandermask.adapters import load_adapter
from expandermask.demo.arms import Materials
from expandermask.demo.model import load_model
from expandermask.demo.training import logits


def reloads_identically(materials: Materials, folder: Path, expected: Tensor) -> bool:
    """Whether a saved adapter gives the same held-out logits bit for bit on a fresh model.

    The fresh model's head has other first values, so the saved one has to replace them.
    """
    model = load_model(materials.source, materials.seed + 1)
    load_adapter(model, folder)
    return torch.equal(logits(model, materials.held_out), expected)


def peft_difference(materials: Materials, folder: Path, expected: Tensor) -> float:
    """The largest difference of any held-out logit when stock PEFT loads the exported folder."""
    from peft import PeftModel

    base = load_model(materials.source, materials.seed + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a flag transformers renamed
        model = PeftModel.from_pretrained(base, str(folder))
    return float((logits(model, materials.held_out) - expected).abs().max())
