"""torch.library operators that run the kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from expandermask.adapters.kernel.launch import float_bits, run

TILE = 16


def forward(y, x, values_a, values_b, index_a, index_b, r, scale, out=None):
    tokens, k = x.shape
    d = y.shape[1]
    out = torch.empty_like(y) if out is None else out
    h = torch.empty(-(-tokens // TILE), r, TILE)
    ia, ib = (_factor(t) for t in (index_a.int(), index_b.int()))
    va, vb = (_factor(t.detach().t()) for t in (values_a, values_b))
    words = dict(chunks=chunks_of(tokens), tokens=tokens, rank=r, half=int(x.dtype == torch.bfloat16), scale=float_bits(scale),
      k=k, d=d, degree_a=values_a.shape[1], degree_b=values_b.shape[1], index_a=ia.data_ptr(), index_b=ib.data_ptr(), values_a=va.data_ptr(), values_b=vb.data_ptr(),
      x=x.data_ptr(), y=y.data_ptr(), out=out.data_ptr(), h=h.data_ptr())
    run("forward", words)
    return out, h


def backward(grad, x, h, values_a, values_b, index_a, index_b, r, scale, need_x, need_a, need_b):
    tokens, k = x.shape
    d = grad.shape[1]
    ia, ib = (_factor(t) for t in (index_a.int(), index_b.int()))
    va, vb = (_factor(t.detach().t()) for t in (values_a, values_b))
    c = chunks_of(tokens)
    grad_h = torch.empty(c, r, TILE)
    grad_x = torch.empty_like(x) if need_x else None
    sa = torch.empty(c, *va.shape) if need_a else None
    sb = torch.empty(c, *vb.shape) if need_b else None
    words = dict(chunks=c, tokens=tokens, rank=r, half=int(x.dtype == torch.bfloat16), scale=float_bits(scale),
      k=k, d=d, degree_a=values_a.shape[1], degree_b=values_b.shape[1], index_a=ia.data_ptr(), index_b=ib.data_ptr(), values_a=va.data_ptr(), values_b=vb.data_ptr(),
      x=x.data_ptr(), grad=grad.data_ptr(), h=h.data_ptr(), grad_h=grad_h.data_ptr(), grad_x=grad_x.data_ptr() if need_x else 0,
      sums_a=sa.data_ptr() if need_a else 0, sums_b=sb.data_ptr() if need_b else 0)
    run("backward", words)
    return grad_x, sa.sum(0)[:, :k].t().contiguous() if need_a else None, sb.sum(0)[:, :d].t().contiguous() if need_b else None

def chunks_of(tokens):
    return max(1, min(64, -(-tokens // TILE) // 8))

def _factor(t):
    n = t.shape[1]
    return functional.pad(t, (0, -n % TILE)).contiguous() if n % TILE else t.contiguous()
