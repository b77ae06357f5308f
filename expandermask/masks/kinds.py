"""What a module is to an adapter: a linear layer, an embedding, or only a subclass of one.

A subclass that brings a ``forward`` of its own may compute anything: Llama 4's router returns a
tuple, BART's positions are looked up by other arguments than ids. It is taken for its parent only
if it computes the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, int]
"""(d, k): output and input features of a linear module, whose weight update is d x k."""

_QUANTIZERS = (
    "aqlm",
    "auto_gptq",
    "auto_round",
    "awq",
    "bitsandbytes",
    "compressed_tensors",
    "eetq",
    "gptqmodel",
    "hqq",
    "optimum",
    "quark",
    "torchao",
    "transformers.integrations",
    "vptq",
)
"""Packages whose linear layers decode their weight in a ``forward`` of their own."""
_HOOKED = ("_hf_hook", "quantization_scheme")
"""Marks of accelerate and compressed-tensors, which replace ``forward`` on single modules."""


def adaptable_shape(module: nn.Module) -> Shape | None:
    """(d, k) of a module that can be adapted, by its attributes: weights may be packed.

    For an embedding k is the number of rows in its table and d their length.
    """
    if not looks_adaptable(module) or why_foreign(module) is not None:
        return None
    if is_conv1d(module):
        weight = module.weight
        return int(weight.shape[1]), int(weight.shape[0])  # type: ignore[index]
    if is_embedding(module):
        return int(module.embedding_dim), int(module.num_embeddings)  # type: ignore[arg-type]
    return int(module.out_features), int(module.in_features)  # type: ignore[arg-type]


def looks_adaptable(module: nn.Module) -> bool:
    """Whether ``module`` is a linear layer or an embedding by its class or a parent of that."""
    return _parent(module) is not None or is_packed_linear(module)


def is_embedding(module: nn.Module) -> bool:
    """Whether ``module`` is an `nn.Embedding` or of a subclass."""
    from torch import nn

    return isinstance(module, nn.Embedding)


def is_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is transformers' Conv1D, a linear layer with a transposed weight."""
    return _conv1d(module) is not None


def is_packed_linear(module: nn.Module) -> bool:
    """Whether ``module`` is a quantized linear layer that is no nn.Linear, as HQQ's and AWQ's are.

    Told by what such classes have in common, so that none of their libraries is imported: the name
    says Linear, ``in_features`` and ``out_features`` are numbers, and codes are stored.
    """
    from torch import nn

    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return (
        not isinstance(module, nn.Linear)
        and "Linear" in type(module).__name__
        and all(isinstance(size, int) and size > 0 for size in sizes)
        and any(_holds_codes(tensor) for tensor in tensors)
    )


def why_foreign(module: nn.Module) -> str | None:
    """Why a subclass of a linear layer or an embedding is not taken for one; None if it is."""
    parent = _parent(module)
    if parent is None:
        return None
    replaced = "forward" in vars(module) and not any(hasattr(module, mark) for mark in _HOOKED)
    if not replaced:
        if type(module).forward is parent.forward or _is_quantized(module):
            return None
        if _computes_as(module, parent):
            return None
    return (
        f"{type(module).__name__} has a forward of its own and does not compute as "
        f"{parent.__name__} does"
    )


def _parent(module: nn.Module) -> type[nn.Module] | None:
    """The class that ``module`` could be taken for."""
    from torch import nn

    for parent in (nn.Linear, nn.Embedding):
        if isinstance(module, parent):
            return parent
    return _conv1d(module)


def _conv1d(module: nn.Module) -> type[nn.Module] | None:
    kinds = (
        kind
        for kind in type(module).__mro__
        if kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers")
    )
    return next(kinds, None)


def _is_quantized(module: nn.Module) -> bool:
    """Whether the numbers of a subclass's weight stand for others, which its forward decodes.

    An embedding counts by its weight only: bitsandbytes has one that normalises its rows.
    """
    if "Grouped" in type(module).__name__:  # several matrices in one, for inputs in groups
        return False
    weight = module._parameters.get("weight")
    if weight is None:
        return not is_embedding(module) and any(map(_holds_codes, module.buffers(recurse=False)))
    known = _is_of_quantizer(type(module).forward.__module__) and not is_embedding(module)
    return known or _holds_codes(weight) or _is_of_quantizer(type(weight).__module__)


def _is_of_quantizer(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in _QUANTIZERS)


def _holds_codes(tensor: Tensor) -> bool:
    """Whether a tensor holds integers or floats of one byte."""
    return not tensor.is_floating_point() or tensor.element_size() < 2


def _computes_as(module: nn.Module, parent: type[nn.Module]) -> bool:
    """Whether a class with a forward of its own computes what its parent does.

    A small twin on the CPU is tried, with values of its own, so the answer is the same on the meta
    device, costs nothing, and leaves ``module`` as it was.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    extra = {*module._parameters, *module._buffers} - {"weight", "bias", "embed_scale"}
    if extra or module._modules or parent not in (nn.Linear, nn.Embedding):
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, generator=generator, device="cpu", dtype=torch.float32)
    has_bias = module._parameters.get("bias") is not None
    bias = torch.tensor([1.0, 2.0, 3.0], device="cpu") if has_bias else None
    if parent is nn.Linear:
        sizes: dict[str, Any] = {"in_features": 5, "out_features": 3}
        inputs = torch.randn(2, 4, 5, generator=generator, device="cpu", dtype=torch.float32)
        expected = functional.linear(inputs, weight, bias)
    else:
        sizes = {"num_embeddings": 3, "embedding_dim": 5, "padding_idx": None, "max_norm": None}
        inputs = torch.tensor([[0, 2], [1, 1]], device="cpu")
        expected = weight[inputs]
        if hasattr(module, "embed_scale"):  # as Gemma's and BART's, which multiply all rows by it
            sizes["embed_scale"] = torch.tensor(3.0, device="cpu")
            expected = 3 * expected
    tensors = {"weight": nn.Parameter(weight), "bias": None if bias is None else nn.Parameter(bias)}
    own = {name: tensors[name] for name in module._parameters}
    twin = object.__new__(type(module))
    for training in (True, False):
        twin.__dict__ = {**vars(module), **sizes, "_parameters": own, "_buffers": {}}
        twin.training = training
        if not _gives(twin, inputs.clone(), expected):
            return False
    return True


def _gives(module: nn.Module, inputs: Tensor, expected: Tensor) -> bool:
    """Whether ``module.forward`` gives the one expected tensor, without its hooks."""
    import torch

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = module.forward(inputs)
    except Exception:  # whatever a foreign forward raises, it is not its parent's
        return False
    return (
        isinstance(output, torch.Tensor)
        and output.shape == expected.shape
        and torch.allclose(output, expected, atol=1e-5)
    )
