"""The demo's model: a pretrained transformer with a new classifier, and the layers it adapts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from expandermask.demo.data import LABELS, MODEL
from expandermask.errors import InvalidInputError
from expandermask.masks.targets import find_targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEAD = "classifier"
"""The new module: trained by every arm and saved with its adapter."""


def model_source(model: str | None) -> str:
    """The folder or hub name to load: the packaged MiniLM unless another is given."""
    return str(MODEL.locate()) if model is None else model


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The model's own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer, source)
    return tokenizer


def load_model(source: str, seed: int) -> nn.Module:
    """The pretrained model with a two-class head whose first values ``seed`` fixes.

    Raises `InvalidInputError` unless the head is all that is new: anything else without pretrained
    values would stay random and frozen, and would not be saved with the adapter.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    model, info = _load(
        AutoModelForSequenceClassification,
        source,
        num_labels=len(LABELS),
        output_loading_info=True,
    )
    new = {name.split(".")[0] for name in info["missing_keys"]}
    if not new <= {HEAD} or not hasattr(model, HEAD):
        raise InvalidInputError(
            f"model={source!r}: {type(model).__name__} would start with random values in "
            f"{', '.join(sorted(new))}, and the demo takes models whose only new module is "
            f"{HEAD!r}, such as MiniLM, BERT or RoBERTa"
        )
    loaded: nn.Module = model
    return loaded


def encoder_linears(model: nn.Module) -> list[str]:
    """Every linear layer of the encoder: all of the model's but the pooler and the head."""
    names = find_targets(model, "all-linear")
    return [name for name in names if "pooler" not in name.split(".")]


def _load(factory: Any, source: str, **options: Any) -> Any:
    with _quiet():
        try:
            return factory.from_pretrained(source, **options)
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"model={source!r} cannot be loaded: {error}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' notes on the new head, which is meant to be new, and its own bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
