"""torch.compile of what a training step spends its time on: the loss of a whole micro-batch and its gradient."""

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
    """Compile in place what ``model(..., mode='loss')`` computes in training; ``options`` are those of torch.compile.

    That makes one graph for each modality. Everything else runs as it is: evaluation, and micro-batches smaller than
    the largest so far of their modality, which end every pass over a source; a graph for each of their sizes would take
    longer than they do. So the sources of a modality should have one batch size. Masks are drawn outside the graph and
    DropPath draws from PyTorch's generator, so both are those of a training that is not compiled. Names of parameters
    stay, and a copy of the model is not compiled.

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
        from torch._inductor import config as inductor  # half a second that only this needs

        inductor.fallback_random = True  # else it has random numbers of its own
    if any(getattr(module, 'grad_checkpointing', False) for module in model.modules()):
        from torch._dynamo import config as dynamo

        # It cuts a graph within DDP, to send gradients earlier, and fails where there is activation checkpointing.
        dynamo.optimize_ddp = False
    model._compiled_call_impl = _CompiledLoss(model, given)  # type: ignore[assignment]  # where Module.compile puts it
    return True


class _CompiledLoss:
    """What a compiled model calls in place of its ``forward`` and its hooks."""

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
    """Refuse to begin where TorchInductor lacks its compiler for CPUs; for GPUs Triton says so itself."""
    name = os.environ.get('CXX') or ('clang++' if sys.platform == 'darwin' else 'g++')
    if sys.platform != 'win32' and shutil.which(name) is None:
        raise ValueError(
            f'compile=True needs a compiler for C++, and there is no {name}. Install it (apt install g++, or conda '
            'install gxx), name another one in the environment variable CXX, or leave compile out.'
        )
