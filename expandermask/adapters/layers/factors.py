"""A masked factor as tensors: its surviving values, and the small integers that say where they sit.

A factor is an n x r matrix (A transposed, or B) with a 0/1 mask, the biadjacency of a bipartite
graph. Three layouts store only what the mask keeps; all put the n features, or as many as survive,
first, so that a sharded parameter is cut along features:

=========  =======================  =======================  ================================
layout     when                     values                   index
=========  =======================  =======================  ================================
regular    every row keeps d        (n, d)                   (d, n): ranks, smallest integers
lines      rows are kept whole      (kept, r)                (kept,): rows
elements   anything else            (entries, 1)             (entries,): places in (r, n)
=========  =======================  =======================  ================================

The layout is read off the two tensors' shapes. Values are a matrix in each, because programs that
group parameters take one of one dimension for a bias.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from expandermask.graphs.biregular import BiregularGraph
from expandermask.masks.plan import Support

Shape = tuple[int, ...]


class Factors(NamedTuple):
    """A and B of one adapter as they are stored, and what a product with them needs besides."""

    values_a: Tensor
    values_b: Tensor
    index_a: Tensor
    index_b: Tensor
    r: int
    scale: float

    @property
    def is_regular(self) -> bool:
        """Whether both are in the regular layout."""
        return self.index_a.dim() == self.index_b.dim() == 2


def value_shape(support: Support) -> tuple[int, int]:
    """The shape of the values of a factor with this mask."""
    if _is_regular(support):
        return support.n1, support.num_edges // support.n1
    if _keeps_lines(support):
        return support.num_edges // support.n2, support.n2
    return support.num_edges, 1


def stored_shape(support: Support) -> Shape:
    """The shape of the values in this library's files: of single elements (entries,)."""
    if _is_regular(support) or _keeps_lines(support):
        return value_shape(support)
    return (support.num_edges,)


def index_of(support: Support) -> Tensor:
    """Where the values sit, in the layout of `value_shape`."""
    if _is_regular(support):
        rows = support.neighbors if isinstance(support, BiregularGraph) else support.rights
        ranks = rows.reshape(value_shape(support)).T.copy()
        return torch.from_numpy(ranks).to(index_dtype(support.n2))
    assert not isinstance(support, BiregularGraph)
    if _keeps_lines(support):
        return torch.from_numpy(np.flatnonzero(support.left_degrees).astype(np.int32))
    places = support.rights.astype(np.int64) * support.n1 + support.lefts
    small = support.n1 * support.n2 <= 2**31
    return torch.from_numpy(places.astype(np.int32 if small else np.int64))


def _is_regular(support: Support) -> bool:
    """Whether every row keeps equally many."""
    if isinstance(support, BiregularGraph):
        return True
    degrees = support.left_degrees
    return bool(0 < degrees.min() == degrees.max())


def _keeps_lines(support: Support) -> bool:
    """Whether rows are kept whole or not at all."""
    if isinstance(support, BiregularGraph):
        return support.d1 == support.n2
    return bool(np.isin(support.left_degrees, (0, support.n2)).all())


def index_dtype(r: int) -> torch.dtype:
    """The dtype of ranks below r: uint8 to 256 and int32 beyond.

    Not int16: gloo and NCCL cannot send it, and DistributedDataParallel sends every buffer.
    """
    return torch.uint8 if r <= 2**8 else torch.int32


def uniform_values(support: Support, seed: int) -> Tensor:
    """First values of A in float32: uniform, with the variance of A x that LoRA's A has.

    LoRA draws A within 1/sqrt(k), k being the fan-in of a rank. Under the mask rank j sees only its
    degree's number of inputs, so its bound is 1/sqrt(degree): sqrt(r / (k * left_degree)) where the
    mask is biregular. ``seed`` has 64 bits.
    """
    shape = value_shape(support)
    generator = torch.Generator().manual_seed(seed)
    unit = 2 * torch.rand(*shape, generator=generator, device="cpu") - 1
    if isinstance(support, BiregularGraph):
        return unit * math.sqrt(1 / support.d2)
    bounds = torch.from_numpy(1 / np.sqrt(np.maximum(support.right_degrees, 1))).float()
    return unit * bounds[torch.from_numpy(support.rights.astype(np.int64))].view(shape)


def dense_factor(
    values: Tensor, index: Tensor, shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """The dense factor, transposed: (r, n) = ``shape``, with ``values`` in place and zeros else."""
    values = values.to(dtype)
    if index.dim() == 2:
        return values.new_zeros(shape).scatter_(0, index.int(), values.t())
    if values.shape[1] == shape[0]:  # of rank 1 the two layouts are one
        return values.new_zeros(shape).index_copy_(1, index.long(), values.t())
    # Viewed after it is written: the older ONNX exporter loses what is written through a view.
    return values.new_zeros(math.prod(shape)).scatter_(0, index, values.squeeze(1)).view(shape)


def gather_values(dense: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """The entries of a dense (r, n) gradient on the mask, in the shape and dtype of ``like``.

    They are converted before any scaling, so that a float16 product is not scaled in float16.
    """
    if index.dim() == 2:
        return dense.gather(0, index.int()).t().to(like.dtype)
    if like.shape[1] == dense.shape[0]:
        return dense.index_select(1, index).t().to(like.dtype)
    return dense.reshape(-1).gather(0, index).unsqueeze(1).to(like.dtype)


def ranks_of(values: Tensor, index: Tensor, n: int) -> Tensor | None:
    """The rank each value belongs to, int64 in the shape of ``values``; None if whole lines."""
    if index.dim() == 2:
        return index.t().long()
    return None if values.shape[1] > 1 else index.long().unsqueeze(1) // n


def columns_by_rank(index: Tensor, r: int) -> Tensor | None:
    """The features each rank is joined to, int64 (r, degree); None unless the degrees are equal.

    For an index in the regular layout, (left_degree, n).
    """
    if index.dim() != 2:
        return None
    degrees = torch.bincount(index.reshape(-1).int(), minlength=r)
    if (degrees != degrees[0]).any():
        return None
    return (index.reshape(-1).int().argsort(stable=True) % index.shape[1]).view(r, -1)
