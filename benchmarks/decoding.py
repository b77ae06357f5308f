"""One token through a small language model with unmerged adapters, beside stock PEFT LoRA.

    python benchmarks/decoding.py [--quick]

The set-up: Llama with the sizes of SmolLM2-135M (30 layers of width 576, random weights), adapters
of rank 64 (left_degree 2) on its seven linear layers; float32, one thread, process CPU time, one
new token on a cache of 64. Each round runs every arm three times, in turn. Step is the median of
the round-by-round ratios to lora's. Arms:

- base: no adapters;
- lora: peft's LoRA, unmerged;
- attach, peft: this library's adapters, from `attach` and from `peft.get_peft_model`;
- portable: those of `attach` by PyTorch's own operations (`set_backend("portable")`);
- bfloat16 and lora bfloat16: the model in bfloat16, compared with each other.

Writes results/decoding.json.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import peft
import torch
from _common import interleaved, median_ratio, print_table, spread, write_record
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from expandermask.adapters import AdapterConfig, XoraConfig, attach, set_backend

RANK = 64
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPT = 64
BAR = 1.05
"""The most that a token should take of LoRA's time."""


def base() -> LlamaForCausalLM:
    """A model with the sizes of SmolLM2-135M."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def lora(model: nn.Module) -> nn.Module:
    """Stock LoRA on the model."""
    return peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules=TARGETS)).eval()


def attached(model: nn.Module) -> nn.Module:
    """Adapters of `attach` on the model."""
    attach(model, AdapterConfig(r=RANK, target_modules=TARGETS), rng=0)
    return model.eval()


def in_peft(model: nn.Module) -> nn.Module:
    """Adapters of `peft.get_peft_model` on the model."""
    config = XoraConfig(r=RANK, target_modules=TARGETS, mask_seed=0)
    return peft.get_peft_model(model, config).eval()


def decoder(model: nn.Module, backend: str = "auto") -> Callable[[int], None]:
    """Three single tokens, each on the same cached prompt."""
    prompt = torch.arange(PROMPT)[None]
    with torch.inference_mode():
        cache: Any = model(prompt, past_key_values=DynamicCache()).past_key_values

    def run(_: int) -> None:
        set_backend(backend)
        with torch.inference_mode():
            for _ in range(3):
                model(torch.tensor([[7]]), past_key_values=cache)
                cache.crop(-1)

    return run


def main() -> None:
    """Time every arm, print the ratios, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 rounds in place of 31")
    rounds = 5 if parser.parse_args().quick else 31
    torch.set_num_threads(1)
    plain = base()
    half = copy.deepcopy(plain).bfloat16()
    own = attached(copy.deepcopy(plain))
    arms = {
        "base": decoder(plain),
        "lora": decoder(lora(copy.deepcopy(plain))),
        "attach": decoder(own),
        "peft": decoder(in_peft(copy.deepcopy(plain))),
        "portable": decoder(own, "portable"),
        "lora bfloat16": decoder(lora(copy.deepcopy(half))),
        "bfloat16": decoder(attached(half)),
    }
    seconds = interleaved(arms, rounds, time.process_time)
    found = {
        arm: {
            "seconds a token": spread([s / 3 for s in seconds[arm]]),
            "step": median_ratio(
                seconds[arm], seconds["lora bfloat16" if "bfloat16" in arm else "lora"]
            ),
        }
        for arm in arms
    }
    bars = {
        f"{arm}: at most {BAR} of LoRA": found[arm]["step"] <= BAR for arm in ("attach", "peft")
    }
    print_table(
        ["arm", "ms a token", "of LoRA's"],
        [
            [arm, f"{1e3 * row['seconds a token']['median']:.1f}", f"{row['step']:.3f}"]
            for arm, row in found.items()
        ],
    )
    print(
        write_record(
            "decoding", {"clock": "process CPU time, 1 thread", "arms": found, "bars": bars}
        )
    )


if __name__ == "__main__":
    main()
