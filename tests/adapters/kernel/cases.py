"""Arguments of the kernel, and what it should make of them in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from expandermask.adapters.layers.factors import index_dtype
from expandermask.adapters.layers.kernel import supports

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
"""Of an output or a gradient of its dtype, relative to the sum of the sizes of its terms."""


@dataclass
class Case:
    """Leaves (y, x, values_a, values_b), the other arguments, and the output's gradient."""

    leaves: tuple[Tensor, Tensor, Tensor, Tensor]
    rest: tuple[Tensor, Tensor, int, float]
    grad: Tensor

    def supported(self) -> bool:
        """Whether the kernel would be taken."""
        y, x, *values = self.leaves
        return supports(x, *values, *self.rest[:2], y=y)


def make(
    tokens: int,
    k: int,
    d: int,
    r: int,
    degrees: tuple[int, int] = (2, 2),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Normal values at random distinct ranks; scale 0.7."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def index(n: int, degree: int) -> Tensor:
        columns = [torch.randperm(r, generator=generator)[:degree] for _ in range(n)]
        return torch.stack(columns, 1).to(index_dtype(r))

    y, x, grad = (normal(tokens, n).to(dtype) for n in (d, k, d))
    values = normal(k, degrees[0]), normal(d, degrees[1])
    leaves = tuple(t.requires_grad_() for t in (y, x, *values))
    return Case(leaves, (index(k, degrees[0]), index(d, degrees[1]), r, 0.7), grad)


def expected(case: Case) -> tuple[Tensor, ...]:
    """The output and the four gradients, by dense float64 products under plain autograd."""
    y, x, values_a, values_b = leaves = [t.detach().double().requires_grad_() for t in case.leaves]
    index_a, index_b, r, scale = case.rest
    out = y + scale * (x @ dense(values_a, index_a, r)) @ dense(values_b, index_b, r).T
    return out, *torch.autograd.grad(out, leaves, case.grad.double())


def sizes(case: Case) -> tuple[Tensor, ...]:
    """What `expected` gives, with the size of every term of each sum in the term's place.

    Rounding errors are parts of these. The sums themselves may be small, where terms cancel.
    """
    leaves = tuple(leaf.detach().abs() for leaf in case.leaves)
    return expected(Case(leaves, case.rest, case.grad.abs()))


def dense(values: Tensor, index: Tensor, r: int) -> Tensor:
    """The (n, r) factor, one 0/1 column selector a slot."""
    slots = torch.nn.functional.one_hot(index.long(), r).to(values.dtype)
    return torch.einsum("snr,ns->nr", slots, values)


def assert_close(actual: Tensor, wanted: Tensor, size: Tensor, dtype: torch.dtype) -> None:
    """Same shape, and each entry within the dtype's tolerance of the sizes of its terms."""
    assert actual.shape == wanted.shape
    error = (actual.detach().double() - wanted.detach()).abs()
    assert bool((error <= TOLERANCE[dtype] * size.detach()).all()), float((error / size).max())
