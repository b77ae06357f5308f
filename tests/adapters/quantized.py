"""Real MiniLM with quantized weights, by each library that works on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import distributions
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    QuantoConfig,
    TorchAoConfig,
)

from tests.adapters.models import bits, minilm_folder

HEAD = "classifier"
_INSTALLED = {distribution.name for distribution in distributions()}


def minilm(**options: Any) -> PreTrainedModel:
    """All six layers, under a new two-way head that is the same every time."""
    torch.manual_seed(0)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return AutoModelForSequenceClassification.from_pretrained(minilm_folder(), **options).eval()


def torchao_int8() -> PreTrainedModel:
    from torchao.quantization import Int8WeightOnlyConfig

    return minilm(
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=[HEAD])
    )


def torchao_int4() -> PreTrainedModel:
    """Quantized by torchao itself, after loading."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    model = minilm()
    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    quantize_(model.bert, config)
    return model


def bitsandbytes_int8() -> PreTrainedModel:
    return minilm(
        quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[HEAD])
    )


def bitsandbytes_nf4() -> PreTrainedModel:
    return minilm(
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            llm_int8_skip_modules=[HEAD],
        )
    )


def quanto_int4() -> PreTrainedModel:
    return minilm(quantization_config=QuantoConfig(weights="int4", modules_to_not_convert=[HEAD]))


def _needs(package: str, make: Callable[[], PreTrainedModel]) -> Any:
    # By distribution: a folder called optimum may be there without quanto in it.
    missing = package not in _INSTALLED
    skip = pytest.mark.skipif(missing, reason=f"needs {package}, which is not for every platform")
    return pytest.param(make, id=make.__name__, marks=skip)


BASES = [
    _needs("torchao", torchao_int8),
    _needs("torchao", torchao_int4),
    _needs("bitsandbytes", bitsandbytes_int8),
    _needs("bitsandbytes", bitsandbytes_nf4),
    _needs("optimum-quanto", quanto_int4),
]


@cache
def batch() -> dict[str, torch.Tensor]:
    """Four texts of 100 tokens, enough of them for one product with W + scale * B A to pay."""
    good, bad = "a warm and clever film ", "dull, loud and far too long "
    texts = [word * repeats for word in (good, bad) for repeats in (3, 20)]
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    options = {"padding": "max_length", "max_length": 100, "truncation": True}
    encoded = tokenizer(texts, return_tensors="pt", **options)
    return {**encoded, "labels": torch.tensor([1, 1, 0, 0])}


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """The bytes of every tensor a model holds, those inside quantized ones included."""
    return {
        f"{name}/{part}": bits(inner).clone()
        for name, tensor in model.state_dict().items()
        for part, inner in _inner(tensor)
    }


def _inner(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if not hasattr(tensor, "__tensor_flatten__"):
        yield "", tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        for part, inner in _inner(getattr(tensor, name)):
            yield f"{name}/{part}", inner
