"""Operations with paths of their own for some CPUs. Everywhere else they are PyTorch's.

Measured on 2 cores of an AMD EPYC of family 26, with AVX-512 and AVX512-BF16 (docs/speed.md):

* Linear layers in float32 use oneDNN on CPUs of AMD. PyTorch uses MKL, which uses no AVX-512 there: 106 GFLOP/s a core,
  oneDNN 233, for a product of 2048^3. ViT-B's step of 8 images takes 0.60 s, a plain MAE's 1.12 s. With MKL both are
  about the same: 1.06 times on an Intel CPU with AMX, which keeps MKL.
* Attention in bfloat16 is written out for up to 512 tokens. PyTorch's flash kernel is slower there: 49 ms for 17 ms
  with 8 images of 196 tokens and heads of 24, forward and backward. The step of 8 images takes 0.41 s instead of
  0.48 s. More tokens are taken in blocks, whose weights are computed again in the backward pass: 322 ms for 462 ms with
  2 clips of 1568 tokens (one thread, family 25 with AVX512-BF16). In float32 the kernel is as fast as the blocks.
  On an EPYC without units for bfloat16 the kernel is 2 to 3 times as fast: use float32. Not measured with AMX.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def _mkl_is_slow() -> bool:
    """Whether this is a CPU of AMD with AVX-512, and oneDNN is there (Linux; others keep PyTorch's choice)."""
    cpuinfo = Path('/proc/cpuinfo')
    has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')
    capable = has_onednn and 'AVX512' in torch.backends.cpu.get_cpu_capability()
    return capable and cpuinfo.exists() and 'AuthenticAMD' in cpuinfo.read_text()


USE_ONEDNN = _mkl_is_slow()
USE_OWN_ATTENTION = True  # in bfloat16 on CPUs
SHORT = 512  # tokens up to which it is written out
ROWS = 392  # queries of a block above that, so that a block of a head stays in the cache


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


class _OneDNNLinear(torch.autograd.Function):
    """What ``F.linear`` computes, in float32 too; sums are taken in another order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        rows = grad.flatten(0, -2)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t(), None) if needs_x else None,
            _product(rows.t(), x.flatten(0, -2).t(), None) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., D) -> (..., D'): ``F.linear`` by the faster library."""
    suits = x.device.type == 'cpu' and x.dtype == weight.dtype == torch.float32 and x.dim() > 1
    if USE_ONEDNN and suits and not torch.is_autocast_enabled('cpu') and not torch.compiler.is_compiling():
        return _OneDNNLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` by the faster library."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D')."""
        return linear(x, self.weight, self.bias)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.t(), 1)


class _BlockedAttention(torch.autograd.Function):
    """Attention of one head after the other, ``ROWS`` queries at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q * q.shape[3] ** -0.5
        ctx.save_for_backward(q, k, v)
        heads = zip(*(x.flatten(0, 1) for x in (q, k, v)), strict=True)
        return torch.cat([_weights(x, k1) @ v1 for q1, k1, v1 in heads for x in q1.split(ROWS)]).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v = ctx.saved_tensors
        grads_q, grads_k, grads_v = [], [], []
        for q1, k1, v1, g1 in zip(*(x.flatten(0, 1) for x in (q, k, v, grad)), strict=True):
            grad_k = grad_v = q.new_zeros(())
            for x, g in zip(q1.split(ROWS), g1.split(ROWS), strict=True):
                weights = _weights(x, k1)
                scores = torch.ops.aten._softmax_backward_data(g @ v1.t(), weights, 1, weights.dtype)
                grads_q.append(scores @ k1)
                grad_k, grad_v = grad_k + x.t() @ scores, grad_v + g.t() @ weights  # (d, K): faster than (K, d)
            grads_k.append(grad_k)
            grads_v.append(grad_v)
        grad_q = torch.cat(grads_q).view(q.shape) * q.shape[3] ** -0.5
        return grad_q, *(torch.stack(x).transpose(1, 2).reshape(k.shape) for x in (grads_k, grads_v))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, Q, d), (B, heads, K, d), (B, heads, K, d) -> (B, heads, Q, d): softmax(q k^T / sqrt(d)) v."""
    if USE_OWN_ATTENTION and q.device.type == 'cpu' and q.dtype == torch.bfloat16:
        if k.shape[2] <= SHORT:
            return torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, 3, torch.float32).to(v.dtype) @ v
        if not torch.compiler.is_compiling():
            return _BlockedAttention.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)
