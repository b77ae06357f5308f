"""The adapters that serving.py writes: each kind of ranks and masks, and what else a folder holds.

The models are tiny ones with random weights, and values are drawn, as if they had been trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn

from expandermask import MaskPlan, adapters, allocation
from expandermask.adapters import AdapterConfig, XoraConfig
from expandermask.adapters.attachment import masked_layers
from expandermask.masks import bernoulli

VOCABULARY = 512
TOKENS = torch.tensor([[1, 17, 300, 45, 260, 99, 411, 23, 5, 77, 280, 301]])
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 8

# -- the models ------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA = SIZES | {"num_key_value_heads": 2, "head_dim": 32}
EXPERTS: dict[str, Any] = {
    "head_dim": 32,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
GPT2: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_ctx": 256}


def _llama(**changes: Any) -> nn.Module:
    config = transformers.LlamaConfig(**(LLAMA | changes))
    return transformers.LlamaForCausalLM(config)


def _classifier() -> nn.Module:
    return transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(**LLAMA, num_labels=3)
    )


def _gpt2() -> nn.Module:
    tokens = {name: SIZES[name] for name in ("bos_token_id", "eos_token_id", "initializer_range")}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCABULARY, **GPT2, **tokens)
    )


def _glm() -> nn.Module:
    return transformers.Glm4MoeForCausalLM(transformers.Glm4MoeConfig(**SIZES, **EXPERTS))


def _deepseek() -> nn.Module:
    experts = {k: v for k, v in EXPERTS.items() if k not in ("head_dim", "num_key_value_heads")}
    return transformers.DeepseekV2ForCausalLM(
        transformers.DeepseekV2Config(**SIZES, **experts, **LATENT)
    )


BASES: dict[str, Callable[[], nn.Module]] = {
    "llama": _llama,
    "llama, biases": lambda: _llama(attention_bias=True),
    "llama, tied": lambda: _llama(tie_word_embeddings=True),
    "llama, classifier": _classifier,
    "gpt2": _gpt2,
    "glm4_moe": _glm,
    "deepseek_v2": _deepseek,
}


def base_folder(work: Path, name: str) -> Path:
    """Where a base lies."""
    return work / "bases" / slug(name)


def write_bases(work: Path) -> None:
    """Save every base that is not there yet."""
    for name, make in BASES.items():
        if not base_folder(work, name).exists():
            torch.manual_seed(0)
            make().save_pretrained(base_folder(work, name))


def base(work: Path, name: str) -> nn.Module:
    """A fresh base, from its folder."""
    folder = base_folder(work, name)
    if name.endswith("classifier"):
        auto = transformers.AutoModelForSequenceClassification
    else:
        auto = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: nn.Module, **options: Any) -> Tensor:
    """What a model computes of the tokens."""
    found: Tensor = model.eval()(input_ids=TOKENS, **options).logits.float()
    return found


# -- the adapters ----------------------------------------------------------------------------------

Adapt = Callable[[nn.Module, "Attach"], nn.Module]
Attach = Callable[..., nn.Module]


def attached(model: nn.Module, **options: Any) -> nn.Module:
    """An adapter by `attach`."""
    plan = options.pop("plan", None)
    config = None if plan else AdapterConfig(**options)
    adapters.attach(model, config if plan is None else plan, rng=None if plan else 0)
    return model


def through_peft(model: nn.Module, **options: Any) -> nn.Module:
    """The same by ``get_peft_model`` and `XoraConfig`."""
    plan = options.pop("plan", None)
    if plan is not None:
        ranks = {"r": plan.r, "target_modules": list(plan)}
        tuned = peft.get_peft_model(model, XoraConfig(**ranks, left_degree=plan.r, mask_seed=0))
        adapters.change_masks(tuned, plan)
        return tuned
    names = {"target_modules": list(ALL)} | options
    return peft.get_peft_model(model, XoraConfig(**names, mask_seed=0))


def fill(model: nn.Module, seed: int = 1) -> nn.Module:
    """Stand for training: draw every value that trains."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                drawn = 0.2 * torch.randn(parameter.shape, generator=generator)
                factor = ".lora_A." in name or ".lora_B." in name
                parameter.copy_(drawn if factor else parameter + drawn)
    return model


def uniform(model: nn.Module, attach: Attach) -> nn.Module:
    """One rank, and with it the scale that is used most."""
    return fill(attach(model, r=2 * RANK, target_modules=ALL))


def adalora(model: nn.Module, attach: Attach) -> nn.Module:
    """Ranks as AdaLoRA left them after a short training."""
    model = attach(model, r=RANK, left_degree=RANK, target_modules=ALL)
    policy = allocation.AdaLoRA(target_rank=4, total_steps=30, final_steps=8, warmup_steps=2)
    policy.attach(model)
    optimizer = torch.optim.AdamW(policy.groups(lr=2e-2))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, VOCABULARY, (8, 24), generator=generator)
    rows[:, 1::2] = rows[:, :1]
    model.train()
    for step in range(30):
        (model(input_ids=rows, labels=rows).loss + policy.loss()).backward()
        policy.after_backward(step)
        optimizer.step()
        policy.after_step(step)
        optimizer.zero_grad()
    require_unequal(policy.finish())
    return model.eval()


def pruned(model: nn.Module, attach: Attach) -> nn.Module:
    """Ranks of 8, 6, 4 and 0: one module in four is left out."""
    model = fill(attach(model, r=RANK, target_modules=ALL))
    for number, layer in enumerate(masked_layers(model, "default").values()):
        gate = torch.ones(RANK)
        gate[: (0, 2, 4, 8)[number % 4]] = 0
        layer.adapter("default").set_rank_gate(gate)
    require_unequal(allocation.prune(model))
    return model


def elements(model: nn.Module, attach: Attach) -> nn.Module:
    """Bernoulli masks, whose mean degree and so whose scale differs from module to module."""
    modules = {n: m for n, m in model.named_modules() if n.endswith(ALL)}
    masks = {}
    for number, (name, module) in enumerate(modules.items()):
        density = 0.1 + 0.05 * number
        sides = module.in_features, module.out_features
        drawn = [bernoulli(side, RANK, density, rng=2 * number + i) for i, side in enumerate(sides)]
        masks[name] = tuple(drawn)
    return fill(attach(model, plan=MaskPlan.from_masks(masks, rng=0)))


def require_unequal(ranks: dict[str, int]) -> None:
    """These adapters are here because their ranks differ."""
    if len(set(ranks.values())) < 2:
        raise RuntimeError(f"all modules have one rank: {ranks}")


def with_options(**options: Any) -> Adapt:
    """An adapter of these options alone."""
    return lambda model, attach: fill(attach(model, **{"r": RANK, **options}))


LOW = with_options(r=4, target_modules=ALL)


@dataclass(frozen=True)
class Kind:
    """An adapter to write: on which base, made how, and by which of the two engines."""

    base: str
    adapt: Adapt
    attach: Attach = attached
    host: Adapt = LOW
    """Another adapter of lower ranks, to be swapped out for this one, or to share a batch with."""

    def make(self, work: Path) -> nn.Module:
        """The adapted model."""
        torch.manual_seed(0)
        return self.adapt(base(work, self.base), self.attach)

    def make_host(self, work: Path) -> nn.Module:
        """The other adapter's model."""
        return self.host(base(work, self.base), self.attach)


def content(base: str, attach: Attach = attached, **options: Any) -> Kind:
    """An adapter of these options; the other adapter has no biases, so that they can be missed."""
    low = {**options, "r": 4, "bias": "none"} if "bias" in options else {**options, "r": 4}
    return Kind(base, with_options(**options), attach, with_options(**low))


RANKS: dict[str, Adapt] = {
    "uniform ranks": uniform,
    "AdaLoRA's ranks": adalora,
    "pruned ranks": pruned,
    "Bernoulli masks": elements,
}
LINEAR = {"target_modules": ALL}
CONTENTS: dict[str, Kind] = {
    "a scale that is no integer": content(
        "llama", lora_alpha=5, scaling="paper", target_modules=["q_proj", "v_proj"]
    ),
    "an adapted embedding": content("llama", target_modules=["embed_tokens", "q_proj", "v_proj"]),
    "an adapted output head": content("llama", target_modules=["lm_head", "q_proj"]),
    "a trained output head": content("llama", **LINEAR, modules_to_save=["lm_head"]),
    "a trained embedding": content("llama", **LINEAR, modules_to_save=["embed_tokens"]),
    "trained norms": content("llama", **LINEAR, modules_to_save=["input_layernorm"]),
    "trained biases": content("llama, biases", through_peft, **LINEAR, bias="all"),
    "an adapted module with a bias": content("llama, biases", **LINEAR),
    "tied embeddings": content("llama, tied", **LINEAR),
    "Conv1D": content("gpt2", target_modules=["c_attn", "c_proj", "c_fc"]),
    "Conv1D, square ones only": content("gpt2", target_modules=["attn.c_proj"]),
    "experts": content("glm4_moe", target_modules=["o_proj", "down_proj"]),
    "latent attention": content("deepseek_v2", target_modules=["q_a_proj", "q_b_proj"]),
    "the output of latent attention": content("deepseek_v2", target_modules=["o_proj"]),
    "a classifier": content("llama, classifier", **LINEAR, modules_to_save=["score"]),
}


def slug(text: str) -> str:
    """A name for a file."""
    return "".join(c if c.isalnum() or c == "." else "_" for c in text)
