"""torch.compile of the loss of a whole micro-batch and its gradient, in which training spends its time."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def compile_loss(model: nn.Module, options: bool | Mapping[str, Any] | None) -> bool:
    """Compile in place what ``model(..., mode='loss')`` computes in training. ``options`` are those of torch.compile.

    This makes one graph for each modality. Evaluation is not compiled. Nor are micro-batches smaller than the largest
    so far of their modality, as at the end of a pass over a source: compiling for each size would take longer. So the
    sources of a modality should have one batch size. Masks are drawn outside the graph, and DropPath uses PyTorch's
    generator, so both are the same with and without compilation. Parameters keep their names. A copy of the model is
    not compiled.

    Returns:
        Whether anything is compiled.
    """
    if not options:
        return False
    if not isinstance(options, bool | Mapping):
        raise ValueError(f'compile={options!r} is neither a bool nor a dict of options of torch.compile.')
    given = {'dynamic': False, **({} if isinstance(options, bool) else options)}
    if given.get('backend', 'inductor') == 'inductor':
        if next(model.parameters()).device.type == 'cpu':
            _check_compiler()
        from torch._inductor import config as inductor  # takes half a second

        inductor.fallback_random = True  # else it draws other random numbers
    if any(getattr(module, 'grad_checkpointing', False) for module in model.modules()):
        from torch._dynamo import config as dynamo

        # In DDP it would split the graph to send gradients earlier, which fails with activation checkpointing.
        dynamo.optimize_ddp = False
    model._compiled_call_impl = _CompiledLoss(model, given)  # type: ignore[assignment]  # where Module.compile puts it
    return True


class _CompiledLoss:
    """A compiled model calls this in place of its ``forward`` and its hooks."""

    def __init__(self, model: Any, options: dict[str, Any]) -> None:
        self.model = model
        self.compiled = torch.compile(model._call_impl, **options)
        self.largest: dict[str, int] = {}  # batch of each modality

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        # MMEngine trains by keywords alone
        if args or not self.model.training or inputs.get('mode') != 'loss' or not self._is_whole(inputs):
            return self.model._call_impl(*args, **inputs)
        if hasattr(self.model, 'draw_masks') and inputs.get('masks') is None:
            inputs['masks'] = self.model.draw_masks(**inputs)
        return self.compiled(**inputs)

    def _is_whole(self, inputs: Mapping[str, Any]) -> bool:
        modality = inputs.get('modality', '')
        size = next(len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor))
        self.largest[modality] = max(size, self.largest.get(modality, 0))
        return size == self.largest[modality]


def _check_compiler() -> None:
    """Raise before training if TorchInductor lacks its compiler for CPUs. For GPUs Triton does so itself."""
    name = os.environ.get('CXX') or ('clang++' if sys.platform == 'darwin' else 'g++')
    if sys.platform != 'win32' and shutil.which(name) is None:
        raise ValueError(
            f'compile=True needs a compiler for C++, and there is no {name}. Install it (apt install g++, or conda '
            'install gxx), name another one in the environment variable CXX, or leave compile out.'
        )
