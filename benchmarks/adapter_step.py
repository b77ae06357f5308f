"""One training step with masked adapters beside stock PEFT LoRA, and what each arm stores.

    python benchmarks/adapter_step.py [--quick] [--wall]

The set-up: BERT, 6 layers of width 384, 12 heads, intermediate 1536, random weights, two classes;
adapters of rank 64 (left_degree 2) on the 36 linear layers of its encoder; 16 x 128 random tokens;
float32 on the CPU. One step is zero_grad, forward, backward and fused AdamW. The classifier is
frozen in every arm but the floor. Arms, which take turns within each round:

- floor: no adapters, everything frozen but the classifier, so backward stops at the head's input;
- through: no adapters, frozen but for the classifier and the embeddings' LayerNorm, so that
  gradients of activations flow through the whole encoder, as any adapter in layer 0 needs;
- lora: peft's LoRA as it comes, dense;
- fused: dense LoRA factors in this library's function and wrapper, the same products as ours; what
  it gains over lora, ours gains for the same reason, which is not sparsity;
- masked_in: dense factors multiplied by 0/1 masks under plain autograd;
- ours: compact values.

Every turn runs the step twice and counts the second, so that no arm pays for memory that the one
before it gave back to the system. By default process CPU time on one thread; with --wall, wall time
on two. Figures are medians of round-by-round ratios to lora. Writes results/adapter_step.json, or
adapter_step_wall.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import peft
import torch
from _common import interleaved, median_ratio, print_table, spread, write_record
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

from expandermask import MaskPlan
from expandermask.adapters import AdapterConfig, MaskedLinear, attach
from expandermask.adapters.function import dense_factor

RANK, DEGREE, BATCH, LENGTH = 64, 2, 16, 128
TARGETS = r"bert\.encoder\..*"
CONFIG = AdapterConfig(r=RANK, left_degree=DEGREE, target_modules=TARGETS)


def bert() -> BertForSequenceClassification:
    """The base model, the same in every arm, all of it frozen."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return BertForSequenceClassification(config).requires_grad_(False)


# -- the arms ------------------------------------------------------------------------------------


def floor() -> nn.Module:
    """Only the classifier trains."""
    model = bert()
    model.classifier.requires_grad_(True)
    return model


def through() -> nn.Module:
    """The classifier and the embeddings' LayerNorm train: a backward pass of full depth."""
    model = floor()
    model.bert.embeddings.LayerNorm.requires_grad_(True)
    return model


def lora() -> nn.Module:
    """Stock PEFT LoRA on the same 36 modules."""
    model = bert()
    names = MaskPlan.for_model(model, target_modules=TARGETS, r=RANK, rng=0)
    targets = "|".join(name.replace(".", r"\.") for name in names)
    return peft.get_peft_model(
        model, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets)
    )


def ours() -> nn.Module:
    """This library's adapters."""
    model = bert()
    attach(model, CONFIG, rng=0)
    return model


def fused() -> nn.Module:
    """This library's wrapper with dense factors in its place."""
    return _wrapped(FusedLinear)


def masked_in() -> nn.Module:
    """Dense factors times masks, under plain autograd."""
    return _wrapped(MaskedInLinear)


class FusedAffine(torch.autograd.Function):
    """`MaskedAffine` line for line, with dense A (r, k) and B (r, d) as the parameters."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor, scale: float
    ) -> Tensor:
        """Compute x (W + scale * B A)' + bias."""
        ctx.save_for_backward(x, a, b, weight)
        ctx.scale = scale
        return nn.functional.linear(x, torch.addmm(weight, b.t(), a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B."""
        x, a, b, weight = ctx.saved_tensors
        grad_b = torch.mm(torch.mm(x, a.t()).t(), grad) * ctx.scale
        grad_a = torch.mm((torch.mm(grad, b.t()) * ctx.scale).t(), x)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad, torch.addmm(weight, b.t(), a, alpha=ctx.scale))
        return grad_x, grad_a, grad_b, None, None, None


class FusedLinear(nn.Module):
    """Dense LoRA in one autograd function."""

    def __init__(self, layer: MaskedLinear) -> None:
        super().__init__()
        self.base, self.scale = layer.base, layer.scale
        a, b = layer.factors()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output."""
        rows = x.reshape(-1, x.shape[-1])
        weight, bias = self.base.weight, self.base.bias
        out = FusedAffine.apply(rows, self.a, self.b, weight, bias, self.scale)
        return out.view(*x.shape[:-1], out.shape[-1])


class MaskedInLinear(nn.Module):
    """Dense LoRA whose factors are multiplied by their masks in every forward pass."""

    def __init__(self, layer: MaskedLinear) -> None:
        super().__init__()
        self.base, self.scale = layer.base, layer.scale
        a, b = layer.factors()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        mask_a, mask_b_transposed = (
            dense_factor(torch.ones_like(values), index, layer.r, torch.float32)
            for values, index in ((layer.values_a, layer.index_a), (layer.values_b, layer.index_b))
        )
        self.register_buffer("mask_a", mask_a)
        self.register_buffer("mask_b", mask_b_transposed.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output."""
        h = nn.functional.linear(x, self.a * self.mask_a)
        return self.base(x) + self.scale * nn.functional.linear(h, self.b * self.mask_b)


def _wrapped(kind: Callable[[MaskedLinear], nn.Module]) -> nn.Module:
    """The model of `ours` with every masked layer made into a ``kind``."""
    model = ours()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaskedLinear):
                setattr(parent, name, kind(child))
    return model


# -- measuring -----------------------------------------------------------------------------------

ARMS = {f.__name__: f for f in (floor, through, lora, fused, masked_in, ours)}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    """One whole training step."""
    optimizer.zero_grad(set_to_none=True)
    model(**batch).loss.backward()
    optimizer.step()


def stored(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Elements that train, of gradients and of optimizer state, after a step; bytes of buffers."""
    layers = [m for m in model.modules() if isinstance(m, (MaskedLinear, MaskedInLinear))]
    moments = [t for s in optimizer.state.values() for t in s.values() if t.dim() > 0]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "gradient": sum(g.numel() for g in gradients),
        "optimizer": sum(t.numel() for t in moments),
        "buffer_bytes": sum(b.nbytes for layer in layers for b in layer.buffers()),
    }


class StepTimer:
    """A clock that runs only during counted steps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.counted = clock, 0.0

    def turn(self, run: Callable[[], None], bar: Any, _: int) -> None:
        """Run once uncounted and once counted."""
        run()
        start = self.clock()
        run()
        self.counted += self.clock() - start
        bar.update()

    def read(self) -> float:
        """Seconds counted so far."""
        return self.counted


def measure(rounds: int, wall: bool) -> dict[str, Any]:
    """Every arm's seconds, ratio to lora, and stored elements."""
    torch.set_num_threads(2 if wall else 1)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(1000, 30_000, (BATCH, LENGTH), generator=generator),
        "labels": torch.randint(0, 2, (BATCH,), generator=generator),
    }
    runs, state = {}, {}
    timer = StepTimer(time.perf_counter if wall else time.process_time)
    with tqdm(total=len(ARMS) * (rounds + 1), desc="steps", unit="turn") as bar:
        for name, make in ARMS.items():
            model = make().train()
            values = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(values, lr=1e-3, fused=True)
            runs[name] = partial(timer.turn, partial(step, model, optimizer, batch), bar)
            state[name] = (model, optimizer)
        seconds = interleaved(runs, rounds, timer.read)
    return {
        name: {
            "seconds": spread(seconds[name]),
            "ratio_to_lora": median_ratio(seconds[name], seconds["lora"]),
            **stored(*state[name]),
        }
        for name in ARMS
    }


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--wall", action="store_true", help="wall time on two threads")
    options = parser.parse_args()
    arms = measure(5 if options.quick else 15, options.wall)
    print_table(
        ["arm", "step, s", "to lora", "trainable", "gradient", "optimizer", "buffers, bytes"],
        [
            [
                name,
                f"{arm['seconds']['median']:.3f}",
                f"{arm['ratio_to_lora']:.3f}",
                *(f"{arm[k]:,}" for k in ("trainable", "gradient", "optimizer", "buffer_bytes")),
            ]
            for name, arm in arms.items()
        ],
    )
    share = {k: arms["ours"][k] / arms["lora"][k] for k in ("trainable", "gradient", "optimizer")}
    print(f"ours / lora, elements: {share}; left_degree / r = {DEGREE / RANK}")
    assert statistics.pstdev([*share.values(), DEGREE / RANK]) == 0
    name = "adapter_step_wall" if options.wall else "adapter_step"
    clock = "wall time, 2 threads" if options.wall else "process CPU time, 1 thread"
    body = {"clock": clock, "arms": arms, "ours_to_lora_elements": share}
    print(f"record: {write_record(name, body).name}")


if __name__ == "__main__":
    main()
