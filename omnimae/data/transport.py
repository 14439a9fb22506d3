"""How tensors get from a loader's worker to the process that it works for: in memory that both see.

PyTorch takes files in /dev/shm for that. Docker gives it 64 MB, less than a batch of clips, and a worker that writes
more dies of a bus error. Memory without a name (memfd_create) is the same without that limit.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def new_storage(num_bytes: int) -> torch.UntypedStorage:
    """Memory for a tensor; shared with the main process from the start, which saves a copy, if this is a worker."""
    if get_worker_info() is None or not num_bytes:
        return torch.UntypedStorage(num_bytes)
    try:
        file = os.memfd_create('batch')
    except (AttributeError, OSError):  # not Linux, or a system that forbids it
        return torch.UntypedStorage._new_shared(num_bytes)
    kind: Any = torch.UntypedStorage  # of whose methods torch's stubs do not know this one
    try:
        os.ftruncate(file, num_bytes)
        return kind._new_shared_fd_cpu(file, num_bytes)
    finally:
        os.close(file)  # the storage keeps one of its own


def sendable(x: Tensor) -> Tensor:
    """The same numbers, if this is a worker in memory that the main process sees, too."""
    if get_worker_info() is None:
        return x
    copy = torch.empty(0, dtype=x.dtype)
    copy.set_(new_storage(x.nbytes))
    return copy.view(x.shape).copy_(x)
