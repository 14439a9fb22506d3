"""Shared memory for tensors from a loader's worker to the main process.

PyTorch uses files in /dev/shm. Docker limits it to 64 MB, less than a batch of clips, and a worker that writes more
dies of a bus error. Anonymous memory (memfd_create) has no such limit.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def new_storage(num_bytes: int) -> torch.UntypedStorage:
    """Memory for a tensor. In a worker it is shared with the main process from the start, which saves a copy."""
    if get_worker_info() is None or not num_bytes:
        return torch.UntypedStorage(num_bytes)
    try:
        file = os.memfd_create('batch')
    except (AttributeError, OSError):  # not Linux, or forbidden
        return torch.UntypedStorage._new_shared(num_bytes)
    kind: Any = torch.UntypedStorage  # torch's stubs lack this method
    try:
        os.ftruncate(file, num_bytes)
        return kind._new_shared_fd_cpu(file, num_bytes)
    finally:
        os.close(file)  # the storage has its own descriptor


def sendable(x: Tensor) -> Tensor:
    """The same tensor; in a worker a copy in shared memory."""
    if get_worker_info() is None:
        return x
    copy = torch.empty(0, dtype=x.dtype)
    copy.set_(new_storage(x.nbytes))
    return copy.view(x.shape).copy_(x)
