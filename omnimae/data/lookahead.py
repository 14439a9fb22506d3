"""Which samples a loader's process will be asked for next. A batch's list says it of the batches that follow it."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import get_worker_info

NUM_BATCHES = 64  # that follow: some for each worker
NUM_KEYS = 32  # of each, and of those that a worker looks at


class Keys(list):
    """What a batch is made of.

    Attributes:
        following: the keys of the next batches, each pickled by itself: they are sent many times, to workers that open
            their own.
    """

    following: Sequence[bytes] = ()


def look_ahead(batches: Iterable[list[Any]]) -> Iterator[Keys]:
    """The same batches, which know what follows them. Nothing is drawn before the first is."""
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
    """Processes that share the batches of this one's loader; 1 if it has no workers."""
    worker = get_worker_info()
    return 1 if worker is None else worker.num_workers


def following_keys(keys: Sequence[Hashable]) -> list[Any]:
    """Keys that this process will be asked for after ``keys``, in order; batches go to the workers in turn."""
    following: list[Any] = []
    for data in getattr(keys, 'following', ())[num_workers() - 1 :: num_workers()]:
        following += pickle.loads(data)
        if len(following) >= NUM_KEYS:
            break
    return following[:NUM_KEYS]
