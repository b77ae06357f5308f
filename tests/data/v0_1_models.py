"""The small models behind `tests/data/v0_1`, with weights and inputs from formulas.

No random number is involved, so every version of torch and transformers gives the same weights. The
files in that folder were made for these weights: change nothing here, only add.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

LINEAR_SHAPES = {"0": (16, 24), "2": (24, 16)}
"""(d, k) of the linear modules of ``mlp``."""
VOCABULARY = 64
RESIZED = 72
"""Rows of the token table of ``llama_resized``, which was made with `VOCABULARY` of them."""


def build(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of this name in eval mode, with weights by `fill`."""
    model = MODELS[name]().to(dtype).eval()
    fill(model.named_parameters())
    return model


def inputs(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """A batch for the model of this name: numbers, or tokens."""
    if name.startswith("square"):
        return formula("inputs", (3, int(name.removeprefix("square")))).to(dtype)
    if name == "mlp":
        return formula("inputs", (3, 24)).to(dtype)
    rows = RESIZED if name == "llama_resized" else VOCABULARY
    return (torch.arange(24) ** 2 * 7 % rows).view(3, 8)


def output(name: str, model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the model computes for its batch."""
    with torch.no_grad():
        found = model(inputs(name, dtype))
    return found if isinstance(found, Tensor) else found.logits


def formula(name: str, shape: Iterable[int]) -> Tensor:
    """Numbers in [-1, 1] that follow from a name and a shape, exact in integers up to one division.

    The quadratic numbers modulo a prime neither repeat soon nor look like a matrix of low rank.
    """
    sizes = tuple(shape)
    count = torch.arange(torch.Size(sizes).numel())
    start = zlib.crc32(name.encode()) % 1009
    numbers = (count * count * 31 + count * (17 + start) + start) % 1009
    return ((numbers.double() - 504) / 504).float().view(sizes)


@torch.no_grad()
def fill(parameters: Iterable[tuple[str, Tensor]], scale: float = 0.3) -> None:
    """Overwrite tensors by `formula` of their names; weights of normalisations lie around 1."""
    for name, tensor in parameters:
        around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        around = 1.0 if ".ln_" in name and name.endswith("weight") else around
        tensor.copy_(around + scale * formula(name, tensor.shape))


@torch.no_grad()
def zero(model: nn.Module) -> nn.Module:
    """The model with every weight at zero, so that merging an adapter leaves just its update."""
    for parameter in model.parameters():
        parameter.zero_()
    return model


def probed(delta: Tensor) -> Tensor:
    """A dense update (d, k) times three columns by formula: small, and any wrong entry shows."""
    return delta.double() @ formula("probe", (delta.shape[1], 3)).double()


def oriented(module: nn.Module) -> Tensor:
    """The weight of a module as (d, k), however it is stored."""
    weight = module.weight
    stored_by_input = isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D"
    return weight.detach().t() if stored_by_input else weight.detach()


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 24, bias=False))


def _embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.Tanh(), nn.Linear(16, 24))


def _square(size: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(size, size))


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config)


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=1,
        n_head=4,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
    )
    return GPT2LMHeadModel(config)


def _llama(tied: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def _llama_resized() -> nn.Module:
    model = _llama(tied=False)
    model.resize_token_embeddings(RESIZED)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "embedding": _embedding,
    "square7": _square(7),
    "square12": _square(12),
    "square60": _square(60),
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": lambda: _llama(tied=False),
    "llama_tied": lambda: _llama(tied=True),
    "llama_resized": _llama_resized,
}
