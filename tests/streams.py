"""The streams of a GPU, played on the CPU: what the second one copies is not there before the first has waited."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from omnimae.engine.feeding import Feed


class Streams:
    """Makes every `Feed` work as on a GPU. ``events`` has its sends and waits in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self._copies: list[tuple[Tensor, Tensor]] = []
        begin = Feed.__init__

        def begin_on_gpu(feed: Feed, steps: Any, preprocessor: Any) -> None:
            begin(feed, steps, preprocessor)
            feed.stream = torch.cuda.Stream()

        monkeypatch.setattr(Feed, '__init__', begin_on_gpu)
        monkeypatch.setattr(Feed, '_send', self._sending(Feed._send))
        monkeypatch.setattr(torch.cuda, 'Stream', lambda: self)
        monkeypatch.setattr(torch.cuda, 'current_stream', lambda: self)
        monkeypatch.setattr(torch.cuda, 'stream', self._chosen)
        monkeypatch.setattr(Tensor, 'record_stream', lambda tensor, stream: None)

    def wait_stream(self, stream: Any) -> None:
        """Everything that was sent arrives."""
        self.events.append('wait')
        for here, there in self._copies:
            there.copy_(here)
        self._copies.clear()

    @contextlib.contextmanager
    def _chosen(self, stream: Any) -> Iterator[None]:
        yield

    def _sending(self, send: Any) -> Any:
        def late(here: Any) -> Any:
            if not isinstance(here, Tensor) or here.device.type != 'cpu':
                return here
            self._copies.append((here, torch.zeros_like(here)))
            return self._copies[-1][1]

        def sent_late(feed: Feed, batch: Any) -> Any:
            self.events.append('send')
            return tree_map(late, send(feed, batch))

        return sent_late
