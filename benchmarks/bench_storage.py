"""What a slow storage costs the loader, with one read after the other and with several in flight.

python benchmarks/bench_storage.py --data FOLDER --out FOLDER [--rounds 3] [--latency 0.02]

FOLDER holds images and videos at any depth. They come from the disk, from a backend that sleeps before each read, and
from a web server on this machine that sleeps as long. The loaders are those of configs/_base_/datasets/in1k_ssv2.py:
training with one worker and with none, and validation with one worker. Loaders with 0 and with 16 reads in flight take
turns, and must give the same batches. Starting a worker does not count. Prints a table of samples a second, medians
over the rounds, and writes table.md.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from bench_loader import find_files, line, our_source, rule
from mmengine.fileio import BaseStorageBackend, register_backend
from torch.utils.data import DataLoader

from omnimae.data.datasets import MixedDataset, collate_clips
from omnimae.data.media.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from omnimae.data.samplers import EvalBatchSampler, EvalSampler, MixedBatchSampler, MixedSampler
from omnimae.data.storage.ahead import READS_IN_FLIGHT

READS = (0, READS_IN_FLIGHT)
LOADERS = {'training, 1 worker': (1, True), 'training, no worker': (0, True), 'validation, 1 worker': (1, False)}
NUM_SAMPLES = {'images': 400, 'clips': 18}  # of a round, about
BATCH = {'images': 32, 'clips': 2}


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description='Samples a second from a slow storage.')
    parser.add_argument('--data', type=Path, required=True, metavar='FOLDER', help='images and videos, at any depth')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='where table.md goes')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--latency', type=float, default=0.02, help='seconds that each read takes longer')
    return parser.parse_args(words)


class SleepingBackend(BaseStorageBackend):
    """Local files, each of which takes ``latency`` seconds longer."""

    def __init__(self, latency: float) -> None:
        self.latency = latency

    def get(self, filepath: Any) -> bytes:
        """Sleep and read."""
        time.sleep(self.latency)
        return Path(filepath).read_bytes()

    def get_text(self, filepath: Any, encoding: str = 'utf-8') -> str:
        """Read a list."""
        return Path(filepath).read_text(encoding)


register_backend('sleeping', SleepingBackend)


class SleepingHandler(SimpleHTTPRequestHandler):
    """Serves local files, late."""

    latency: float

    def do_GET(self) -> None:  # noqa: N802  # the name is http.server's
        """Sleep and answer."""
        time.sleep(self.latency)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client went away: it wanted to know only that the file is there."""


@contextmanager
def web_server(latency: float) -> Iterator[str]:
    """The address at which this machine's files are."""
    handler = type('Handler', (SleepingHandler,), dict(latency=latency))
    server = Server(('127.0.0.1', 0), partial(handler, directory='/'))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def loader_of(source: dict, kind: str, reads: int, num_workers: int, training: bool, passes: int) -> DataLoader:
    """A loader of training or validation over one source."""
    dataset = MixedDataset(sources=dict(source=source), reads_in_flight=reads)
    batches: Any
    if training:
        sampler = MixedSampler(dataset=dataset, repeats=dict(source=passes), seed=0)
        batches = MixedBatchSampler(sampler=sampler, batch_size=BATCH[kind], rank=0, world_size=1)
    else:
        rows = EvalSampler(dataset=dataset, rank=0, world_size=1)
        rows.shares *= passes
        batches = EvalBatchSampler(sampler=rows, batch_size=BATCH[kind])
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate_clips, num_workers=num_workers)


def drain(loader: DataLoader) -> tuple[float, str]:
    """Samples a second after the first batch, and what tells all batches from others."""
    digest, count, begin = hashlib.sha256(), 0, 0.0
    for batch in loader:
        count += len(batch['ids']) if begin else 0
        begin = begin or time.perf_counter()
        digest.update(batch['clips']['rgb'].numpy().tobytes())
    return count / (time.perf_counter() - begin), digest.hexdigest()


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write the table."""
    args = parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    heads = [f'{name}: {reads} in flight' for name in LOADERS for reads in READS]
    lines = [line('samples a second', heads), rule(len(heads))]
    with web_server(args.latency) as url, tempfile.TemporaryDirectory() as folder:
        for kind, extensions in (('images', IMAGE_EXTENSIONS), ('clips', VIDEO_EXTENSIONS)):
            paths = find_files(args.data, extensions)
            passes = -(-NUM_SAMPLES[kind] // len(paths))
            source = our_source(kind, paths, 1, Path(folder))
            backend = dict(backend='sleeping', latency=args.latency)
            stores = {
                'disk': source,
                f'{args.latency * 1000:g} ms a read': dict(source, backend_args=backend),
                f'{args.latency * 1000:g} ms, HTTP': dict(source, root=url),
            }
            for store, at in stores.items():
                rates: dict[tuple[str, int], list[float]] = {}
                found: dict[str, set[str]] = {}
                for _ in range(args.rounds):
                    for name, (num_workers, training) in LOADERS.items():
                        own = at if training else dict(at, transforms=[dict(type='CenterCrop', size=64)])
                        for reads in READS:
                            rate, content = drain(loader_of(own, kind, reads, num_workers, training, passes))
                            rates.setdefault((name, reads), []).append(rate)
                            found.setdefault(name, set()).add(content)
                assert all(len(contents) == 1 for contents in found.values())
                lines.append(line(f'{kind}, {store}', [f'{np.median(rate):.1f}' for rate in rates.values()]))
                print(lines[-1], flush=True)
    table = '\n'.join(lines)
    print(table)
    (args.out / 'table.md').write_text(table + '\n')


if __name__ == '__main__':
    main()
