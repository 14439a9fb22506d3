"""Linear layers that are not slow on CPUs of AMD.

PyTorch hands float32 products to MKL, which leaves AVX-512 unused on processors of AMD: 106 GFLOP/s a core where
oneDNN, which PyTorch carries as well, reaches 233 (EPYC of family 26, a product of 2048^3). Everywhere else, and under
autocast, the layers here are PyTorch's own.
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
