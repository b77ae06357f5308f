"""What the first pass of training tells: weights that are looked up of layers never called."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from transformers import T5Config, T5ForConditionalGeneration

from expandermask.adapters import (
    AdapterConfig,
    XoraConfig,
    attach,
    delete_adapter,
    detach,
)
from expandermask.adapters.attachment import attachment
from expandermask.errors import AdapterError
from tests.adapters.models import bert, gpt2, mlp, tokens

HOWS = ("attach", "XoraConfig")
X = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


def adapt(model: nn.Module, how: str, targets: Any = "all-linear", r: int = 16) -> nn.Module:
    """A model in training mode, with an adapter put on by either way."""
    if how == "attach":
        attach(model, AdapterConfig(r=r, target_modules=targets), rng=0)
        return model.train()
    return peft.get_peft_model(model, XoraConfig(r=r, target_modules=targets, mask_seed=0)).train()


def waits(model: nn.Module) -> bool:
    """Whether the first pass is still to come."""
    return bool(attachment(model).looking)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Bare(nn.Module):
    """Calls one layer, and whose ``forward`` has no source computes with the weight of another."""

    def __init__(self, expression: str, then: str = "x") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.called, self.other, self.read = (nn.Linear(64, 64) for _ in range(3))
        names: dict[str, Any] = {"torch": torch, "F": F}
        lines = ["x = self.called(x)", "w = self.read.weight", f"x = {expression}"]
        code = "\n ".join(["def forward(self, x):", *lines, f"return {then}"])
        exec(code, names)
        self.run = names["forward"]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


READS = (
    "F.linear(x, w)",
    "F.linear(x, getattr(getattr(self, 're' + 'ad'), 'wei' + 'ght'))",
    "x @ w.data",
    "torch.cat([part for part in w.chunk(2)]) @ x",
    "x * w.sum().item()",
    "torch.func.functional_call(self.other, {'weight': w}, (x,))",
)
ASKS = ("x.to(w.dtype)", "x.to(w.detach().device)", "x[:, : w.shape[1]]", "x.type_as(w)")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("read", READS)
def test_a_weight_that_is_read_and_not_called_is_refused(how: str, read: str) -> None:
    model = adapt(Bare(read), how, ["called", "read"])
    for _ in range(2):  # a second try is no better
        with pytest.raises(AdapterError, match=r"weight of 'read' and never called .* \(1 such"):
            model(X)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("use", READS + ASKS)
def test_a_weight_that_is_looked_up_beside_a_call_is_not(how: str, use: str) -> None:
    model = adapt(Bare(use, then="self.read(x)"), how, ["called", "read"])
    model(X)
    assert not waits(model)


def test_a_weight_that_is_looked_up_after_the_call_is_not() -> None:
    model = adapt(Bare("self.read(x)", then="x @ self.read.weight"), "attach", ["called", "read"])
    model(X)
    assert not waits(model)


@pytest.mark.parametrize("ask", ASKS)
def test_a_weight_is_refused_too_if_only_its_dtype_or_shape_was_asked_for(ask: str) -> None:
    model = adapt(Bare(ask), "attach", ["called", "read"])
    with pytest.raises(AdapterError, match="'read'"):
        model(X)


def test_what_was_looked_up_before_the_pass_is_forgotten() -> None:
    model = adapt(Experts(), "attach")
    assert model.experts[3].weight.shape == (64, 64)
    model(X)
    assert not waits(model)


def test_a_read_layer_can_be_left_out_after_the_refusal() -> None:
    model = adapt(Bare("x @ w"), "attach", ["called", "read"])
    with pytest.raises(AdapterError, match="exclude_modules"):
        model(X)
    detach(model)
    adapt(model, "attach", ["called"])(X)


@pytest.mark.parametrize("how", HOWS)
def test_t5_reads_a_dtype(how: str) -> None:
    settings = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    own = T5ForConditionalGeneration(T5Config(vocab_size=96, decoder_start_token_id=0, **settings))
    model = adapt(own, how)
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    assert not waits(model)


@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
def test_the_head_reads_the_embedding_it_is_tied_to(given: str) -> None:
    model = adapt(gpt2(), "XoraConfig", ["wte", "c_attn"], r=2)
    inputs = tokens()
    if given == "inputs_embeds":
        inputs = model.get_input_embeddings()(inputs)
    model(**{given: inputs})
    assert not waits(model)


def test_a_weight_that_another_module_shares_may_be_looked_up() -> None:
    own = Bare("x @ w")
    own.other.weight = own.read.weight
    model = adapt(own, "XoraConfig", ["called", "read"])
    model(X)
    assert not waits(model)


class Experts(nn.Module):
    """Four experts of which two run, the second of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[1](self.experts[1](self.experts[0](x)))


@pytest.mark.parametrize("how", HOWS)
def test_unused_experts_and_modules_called_twice(how: str) -> None:
    model = adapt(Experts(), how)
    model(X)
    assert not waits(model)


@pytest.mark.parametrize("how", HOWS)
def test_penalties_of_the_training_loop_are_its_own(how: str) -> None:
    model = adapt(Experts(), how)
    penalty = sum(p.square().sum() for p in model.parameters())
    (model(X).sum() + penalty + sum(p.norm() for p in model.parameters())).backward()
    assert not waits(model)


def test_weights_that_are_computed_anew_at_every_call() -> None:
    own = mlp()
    weight_norm(own[0])
    model = adapt(own, "attach")
    model(X)
    assert not waits(model)


# -- which pass is the first ---------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_only_a_pass_of_training_with_gradients_counts(how: str) -> None:
    model = adapt(mlp(), how)
    with torch.no_grad():
        model(X)
    model.eval()(X)
    assert waits(model)
    model.train()(X)
    assert not waits(model)
    assert hooks(model) == 0


@pytest.mark.parametrize("how", HOWS)
def test_a_second_adapter_is_looked_at_again(how: str) -> None:
    model = adapt(mlp(), how)
    model(X)
    if how == "attach":
        attach(model, AdapterConfig(r=8), name="second", rng=1)
    else:
        model.add_adapter("second", XoraConfig(r=8, mask_seed=1))
    assert waits(model)
    model(X)
    assert hooks(model) == 0


def test_modules_of_a_second_adapter_are_watched_too() -> None:
    model = adapt(Bare("x @ w"), "attach", ["called"])
    attach(model, AdapterConfig(r=8, target_modules=["read"]), name="second", rng=1)
    with pytest.raises(AdapterError, match="'read'"):
        model(X)
    delete_adapter(model, "second")
    model(X)
    assert hooks(model) == 0


@pytest.mark.parametrize("how", HOWS)
def test_nothing_waits_when_the_adapters_are_gone(how: str) -> None:
    model = adapt(mlp(), how)
    if how == "attach":
        detach(model)
    else:
        model = model.unload()
    assert hooks(model) == 0


class Failing(nn.Module):
    """Fails once, in the middle, and then reads a weight."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.rest = Bare("x @ w")
        self.error: BaseException | None = error

    def forward(self, x: Tensor) -> Tensor:
        error, self.error = self.error, None
        if error is not None:
            self.rest.called(x)
            raise error
        return self.rest(x)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_pass_that_failed_is_followed_by_another_first_one(error: BaseException) -> None:
    model = adapt(Failing(error), "attach", ["called", "read"])
    with pytest.raises(type(error)):
        model(X)
    with pytest.raises(AdapterError, match=r"'rest\.read'"):
        model(X)
    assert hooks(model) == sum(map(len, attachment(model).looking.values()))


class Changing(nn.Module):
    """Calls a layer in its first pass and then fails; from then on it only reads the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(64, 64)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == 1:
            self.read(x)
            raise RuntimeError
        return x @ getattr(self.read, f"{'wei'}ght")


def test_what_a_failed_pass_called_is_forgotten() -> None:
    model = adapt(Changing(), "attach")
    with pytest.raises(RuntimeError):
        model(X)
    with pytest.raises(AdapterError, match="'read'"):
        model(X)


class Recursive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = self.layer(x)
        return self(x, depth - 1) if depth else x


def test_a_model_that_calls_itself() -> None:
    model = adapt(Recursive(), "attach")
    model(X)
    assert hooks(model) == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_model_is_looked_at_once(reentrant: bool) -> None:
    model = adapt(mlp(), "attach")
    out = checkpoint(model, X.clone().requires_grad_(), use_reentrant=reentrant)
    out.sum().backward()
    assert hooks(model) == 0


@pytest.mark.parametrize("how", HOWS)
def test_a_checkpointed_block_that_reads_is_refused(how: str) -> None:
    own = nn.Module()
    own.block = Bare("x @ w")
    own.forward = lambda x: checkpoint(own.block, x, use_reentrant=True)
    model = adapt(own, how, ["called", "read"])
    with pytest.raises(AdapterError, match=r"'block\.read'"):
        model(X.clone().requires_grad_())


class Towers(nn.Module):
    """Two towers, each called alone, as those of CLIP are."""

    def __init__(self) -> None:
        super().__init__()
        self.text = Bare("x @ w")
        self.image = Bare("x", then="self.read(x)")

    def forward(self, x: Tensor) -> Tensor:
        return self.text.called(self.image(x))


def test_a_part_that_is_called_alone_has_its_own_first_pass() -> None:
    model = adapt(Towers(), "attach", ["called", "read"])
    model.image(X)
    assert set(attachment(model).looking) == {"", "text", "text.called", "text.read"}
    with pytest.raises(AdapterError, match=r"'text\.read'"):
        model.text(X)
    model(X)  # the layers of the image tower were judged in its own pass
    assert hooks(model) == 0


def test_a_part_with_only_a_second_adapter_is_looked_at() -> None:
    model = adapt(Towers(), "attach", r"image\..*(called|read)")
    attach(model, AdapterConfig(r=8, target_modules=["text.read"]), name="second", rng=1)
    with pytest.raises(AdapterError, match=r"'text\.read'"):
        model.text(X)


def test_a_model_without_its_head() -> None:
    model = adapt(bert(), "XoraConfig", ["query"])
    model.base_model.model.bert(tokens())
    assert set(attachment(model).looking) == {""}
    model(input_ids=tokens())
    assert hooks(model) == 0


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("how", HOWS)
def test_a_copy_waits_for_its_own_first_pass(
    how: str, copied: Callable[[nn.Module], nn.Module]
) -> None:
    model = adapt(mlp(), how)
    twin = copied(model)
    twin(X)
    assert hooks(twin) == 0
    assert waits(model)
    model(X)
    assert hooks(model) == 0


def test_a_copy_tells_of_its_own_layers() -> None:
    twin = copy.deepcopy(adapt(Bare("x @ w"), "attach", ["called", "read"]))
    with pytest.raises(AdapterError, match="'read'"):
        twin(X)


class Asking(nn.Module):
    """Asks each block, or layer, for a dtype before it calls it."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    @property
    def weight(self) -> Tensor:
        return self.blocks[0].weight

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x.to(block.weight.dtype))
        return x


def asking() -> Asking:
    return Asking(*(Asking(nn.Linear(64, 64), nn.Linear(64, 64)) for _ in range(3)))


@pytest.mark.slow
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("part", ["whole", "blocks", "layers"])
def test_compiled_parts_are_no_alarm(part: str, fullgraph: bool) -> None:
    torch._dynamo.reset()
    model = adapt(asking(), "attach")
    layers = [layer for block in model.blocks for layer in block.blocks]
    parts = {"whole": [model], "blocks": list(model.blocks), "layers": layers}
    for module in parts[part]:
        module.compile(backend="eager", fullgraph=fullgraph)
    model(X).sum().backward()
    assert waits(model) == (part == "whole")
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_a_model_compiled_as_a_whole_may_checkpoint_its_blocks() -> None:
    torch._dynamo.reset()
    own = nn.Module()
    own.rest = asking()
    own.forward = lambda x: checkpoint(own.rest, x, use_reentrant=False)
    model = adapt(own, "attach")
    model.compile(backend="eager", fullgraph=True)
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [False, True])
def test_compiled_parts_may_checkpoint_what_is_in_them(wrap: bool) -> None:
    torch._dynamo.reset()
    part = nn.Module()
    part.rest = asking()
    part.forward = lambda x: checkpoint(part.rest, x, use_reentrant=False)
    model = adapt(nn.Sequential(part), "attach")
    if wrap:
        model[0] = torch.compile(part, backend="eager", fullgraph=True)
    else:
        part.compile(backend="eager", fullgraph=True)
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not waits(model)


@pytest.mark.slow
def test_a_model_compiled_after_a_failed_pass_is_not_looked_at() -> None:
    torch._dynamo.reset()
    model = adapt(mlp(), "attach")
    with pytest.raises(RuntimeError):
        model(X[:, :5])
    model.compile(backend="eager", fullgraph=True)
    model(X)
    assert waits(model)
