"""Batches on their way from the loader to the device. A GPU copies one while it computes another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from omnimae.stopping import StorageAwayError, WaitEnded
from omnimae.structures import with_clips


class Feed:
    """The micro-batches of each step, first on the host, then one after the other on the device.

    On a GPU a separate stream copies the next micro-batch while one is computed. After the last one of a step the loop
    calls `look_ahead`, which copies the first one of the next step, before it waits for the device. The host does not
    wait for a copy if batches are pinned (``train_dataloader.pin_memory=True``). Other devices copy nothing ahead.

    Args:
        steps: from the loader.
        preprocessor: of the model. Its ``move`` checks values on the host, then copies the batch.

    Attributes:
        seconds_ahead: how long `look_ahead` waited for the loader.
        is_waiting: whether it waits for the loader now, so that WaitEnded may be raised.
    """

    def __init__(self, steps: Iterator[list[dict[str, Any]]], preprocessor: Any) -> None:
        self.steps = steps
        self.preprocessor = preprocessor
        on_gpu = hasattr(preprocessor, 'move') and preprocessor.device.type == 'cuda'
        self.stream = torch.cuda.Stream(preprocessor.device) if on_gpu else None
        self.seconds_ahead = 0.0
        self.is_waiting = False
        self._ahead: list[dict[str, Any]] | None = None  # the next step
        self._error: StorageAwayError | None = None  # in place of the next step
        self._first: dict[str, Any] = {}  # its first micro-batch, as it was sent
        self._sent: dict[str, Any] = {}

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return self

    def __next__(self) -> list[dict[str, Any]]:
        if self._error is not None:
            raise self._error
        ahead, self._ahead = self._ahead, None
        return self._wait_for_step() if ahead is None else ahead

    def take(self, batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Shallow copies of a step's micro-batches. The first may be on the device, but not a hook's replacements."""
        taken: list[dict[str, Any]] = [with_clips(batch) for batch in batches]
        if self._sent:
            self._wait()
            taken[0] |= {key: x for key, x in self._sent.items() if _is_same(taken[0].get(key), self._first.get(key))}
            self._sent = {}
        return taken

    def on_device(self, batches: Sequence[dict[str, Any]]) -> Iterator[Any]:
        """Each micro-batch with the model's inputs on the device. The next one is copied meanwhile."""
        if self.stream is None:
            yield from batches
            return
        sent = self._send(batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            self._wait()
            here, sent = {**batch, **sent}, self._send(following) if following else {}
            yield here

    def look_ahead(self) -> None:
        """Read the next step and send its first micro-batch, while the device computes this one."""
        if self.stream is None:
            return
        begin = time.time()
        try:
            self._ahead = self._wait_for_step()
        except (StopIteration, WaitEnded):  # the current step is still completed
            self._ahead = None
        except StorageAwayError as error:  # after this step
            self._error = error
        self.seconds_ahead = time.time() - begin
        if self._ahead is not None:
            self._first = tree_map(lambda x: x, self._ahead[0])  # hooks may replace a clip in its dict
            self._sent = self._send(self._first)

    def _wait_for_step(self) -> list[dict[str, Any]]:
        try:
            self.is_waiting = True
            return next(self.steps)
        finally:
            self.is_waiting = False

    def _send(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.cuda.stream(self.stream):
            sent = self.preprocessor.move(batch)
        for x in tree_leaves(sent):
            if isinstance(x, Tensor):
                x.record_stream(torch.cuda.current_stream())  # else its memory is free when this stream is done
        return sent

    def _wait(self) -> None:
        """Let the device, not the host, wait for the copies."""
        torch.cuda.current_stream().wait_stream(self.stream)  # type: ignore[arg-type]  # there is one


def _is_same(value: Any, other: Any) -> bool:
    """Whether both hold the very same objects."""
    return [*map(id, tree_leaves(value))] == [*map(id, tree_leaves(other))]
