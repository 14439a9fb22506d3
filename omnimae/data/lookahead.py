"""The samples that a loader's process needs next. The keys of a batch carry those of the following batches."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import get_worker_info

NUM_BATCHES = 64  # following ones; some for each worker
NUM_KEYS = 32  # of each batch, and those that a worker uses


class Keys(list):
    """The keys of a batch.

    Attributes:
        following: the keys of each of the next batches, pickled: all are sent to all workers, which load their own.
    """

    following: Sequence[bytes] = ()


def look_ahead(batches: Iterable[list[Any]]) -> Iterator[Keys]:
    """The same batches with their ``following``. Nothing is drawn before the first ``next``."""
    window: deque[tuple[list[Any], bytes]] = deque()
    for batch in batches:
        window.append((batch, pickle.dumps(batch[:NUM_KEYS])))
        if len(window) > NUM_BATCHES:
            yield _first_of(window)
    while window:
        yield _first_of(window)


def _first_of(window: deque[tuple[list[Any], bytes]]) -> Keys:
    keys = Keys(window.popleft()[0])
    keys.following = [data for _, data in window]
    return keys


def num_workers() -> int:
    """Processes that share the batches of the loader; 1 without workers."""
    worker = get_worker_info()
    return 1 if worker is None else worker.num_workers


def following_keys(keys: Sequence[Hashable]) -> list[Any]:
    """Keys that this process needs after ``keys``, in order. Batches go to the workers in turn."""
    following: list[Any] = []
    for data in getattr(keys, 'following', ())[num_workers() - 1 :: num_workers()]:
        following += pickle.loads(data)
        if len(following) >= NUM_KEYS:
            break
    return following[:NUM_KEYS]
