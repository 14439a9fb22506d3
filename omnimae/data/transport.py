"""Memory of a loader's worker: shared with the main process for tensors, and kept for the next samples.

PyTorch uses files in /dev/shm. Docker limits it to 64 MB, less than a batch of clips, and a worker that writes more
dies of a bus error. Anonymous memory (memfd_create) has no such limit.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
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


def keep_freed_memory() -> None:
    """Keep freed memory in this worker for its next samples.

    By default glibc gives large blocks back, and Linux clears each page that it hands out anew. That took a quarter of
    a clip's time in a virtual machine.
    """
    if get_worker_info() is not None:
        set_malloc()


@cache
def set_malloc() -> None:
    """Let this process keep freed memory, up to 256 MB at the end of its heap."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # glibc has it
    if mallopt is not None:
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: bytes of a block that is given back alone; the most that glibc allows
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD: free bytes at the end of the heap


def sendable(x: Tensor) -> Tensor:
    """The same tensor; in a worker a copy in shared memory."""
    if get_worker_info() is None:
        return x
    copy = torch.empty(0, dtype=x.dtype)
    copy.set_(new_storage(x.nbytes))
    return copy.view(x.shape).copy_(x)
