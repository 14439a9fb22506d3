"""The precision of evaluation, and of float32 matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

DTYPES = {None: None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def dtype_of(cfg: Mapping[str, Any]) -> str | None:
    """The precision of a config's training and evaluation; of a test-only config ``test_cfg.dtype``. None: float32."""
    recipe = cfg.get('optim_wrapper') or cfg.get('test_cfg') or {}
    return recipe.get('dtype') or ('float16' if recipe.get('type') == 'AmpOptimWrapper' else None)


def evaluating(dtype: str | None, device: torch.device | str) -> AbstractContextManager:
    """The context of predictions: autocast to ``dtype``, see `dtype_of`, if the device is faster at it.

    A GPU without bfloat16 evaluates in float32. So does a CPU without AVX512-BF16 and AMX. On an AMD EPYC with AVX2,
    one thread, ViT-S takes 2.4 s in bfloat16 and 0.28 s in float32 for two clips of 8x112x112.
    """
    wanted, device_type = DTYPES[dtype], torch.device(device).type
    return nullcontext() if wanted is None or not computes(wanted, device_type) else torch.autocast(device_type, wanted)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device


def computes(dtype: torch.dtype, device_type: str) -> bool:
    """Whether the device has units for the type. Without them PyTorch emulates it, slower than float32."""
    if device_type == 'cuda':
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == 'cpu' and dtype == torch.bfloat16:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def set_float32_precision(precision: str) -> None:
    """Let GPUs round the inputs of float32 products and convolutions to TF32 ('high'), or not ('highest')."""
    if precision not in ('high', 'highest'):
        raise ValueError(
            f"env_cfg.float32_precision={precision!r} is unknown. Choose 'high' (TF32, 10 bits) or 'highest' (23 bits)."
        )
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == 'high'
